"""`starchat serve`: one model over HTTP, for clients of several protocols. Needs starchat[serve].

app.py makes the application, of one file for each protocol (a face). service.py alone knows the
engine. Nothing else in starchat imports this package but the command.
"""
