"""Hugging Face's face: text-generation-inference and the Inference API.

forms.py has the bodies of requests and what they ask of the model, answers.py the bodies of
answers, routes.py the paths.
"""

from .routes import error_body, face, tgi_error

__all__ = ["error_body", "face", "tgi_error"]
