"""Everyday tools for training, as tables: names, descriptions, parameters, ways to ask.

A parameter is `name/other names:kind`, with `?` if it is optional; requests name parameters by
number. Held-out tools stand in evaluate_agents.py and share no name with these.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import values
from tools import Parameter, Tool, mention


@dataclass(frozen=True)
class Theme:
    """One row of the table below."""

    names: tuple[str, ...]
    descriptions: tuple[str, ...]
    parameters: tuple[tuple[tuple[str, ...], str, bool], ...]
    requests: tuple[str, ...]

    def tool(self, rng: random.Random) -> Tool:
        """Return the tool under one of its names."""
        parameters = tuple(
            Parameter(rng.choice(names), kind, required)
            for names, kind, required in self.parameters
        )
        return Tool(rng.choice(self.names), rng.choice(self.descriptions), parameters)

    def request(
        self, tool: Tool, rng: random.Random, said: Mapping[str, str] = MappingProxyType({})
    ) -> tuple[str, dict[str, Any]]:
        """Return a request for the tool, and the arguments that it names, in schema order.

        `said` gives other words for the values of some parameters.
        """
        frame = rng.choice(self.requests)
        named = [i for i in range(len(tool.parameters)) if f"{{{i}}}" in frame]
        drawn = {i: tool.parameters[i].value(rng) for i in named}
        text = frame
        for i in named:
            parameter = tool.parameters[i]
            shown = said.get(parameter.name) or mention(parameter, drawn[i], rng, True)
            text = text.replace(f"{{{i}}}", shown)
        return text, {tool.parameters[i].name: drawn[i] for i in named}


_WORD = re.compile(r"[a-z]{3,}", re.IGNORECASE)
_KEPT = frozenset(  # words that make a request what it is, whatever it is about
    "the and for with from into about what which where how who that this there have has does can "
    "will would could give tell show find please want need return returns get put set let using "
    "use tool much many some are you your its out off not text value number name".split()
)


def disguised(theme: Theme, rng: random.Random) -> Theme:
    """Return a theme with other words for what it is about, the same ones everywhere.

    Only the words tell then which tool a request is for. Without words to exchange: the theme.
    """
    told = " ".join((*theme.names, *theme.descriptions)).replace("_", " ")
    known = {word.lower() for word in _WORD.findall(told)} - _KEPT
    for names, _, _ in theme.parameters:
        known |= {part for name in names for part in name.split("_") if len(part) > 2} - _KEPT
    words = {word: values.noun(rng) for word in sorted(known)}

    def other(text: str) -> str:
        def put(match: re.Match[str]) -> str:
            found = match[0]
            new = words.get(found.lower(), found)
            return new.capitalize() if found[0].isupper() and new != found else new

        return _WORD.sub(put, text)

    requests = tuple(
        other(text)
        for text in theme.requests
        if any(word.lower() in words for word in _WORD.findall(text))
    )
    if not requests:
        return theme
    return Theme(
        tuple(map(other, theme.names)),
        tuple(map(other, theme.descriptions)),
        tuple(
            (tuple(map(other, names)), kind, is_required)
            for names, kind, is_required in theme.parameters
        ),
        requests,
    )


def parse(table: str) -> tuple[Theme, ...]:
    """Return the themes of a table: four lines each, blank lines between."""
    themes = []
    for block in table.strip().split("\n\n"):
        names, descriptions, parameters, requests = block.split("\n")
        made = []
        for text in parameters.split() if parameters != "-" else ():
            spelled, kind = text.split(":")
            made.append((tuple(spelled.split("/")), kind.rstrip("?"), not kind.endswith("?")))
        themes.append(
            Theme(
                tuple(names.split("|")),
                tuple(descriptions.split("|")),
                tuple(made),
                tuple(requests.split("|")),
            )
        )
    return tuple(themes)


THEMES = parse("""
get_weather|weather|current_weather|weather_lookup|weather_report
Get the weather at a location.|Return the current weather in a city.|Weather of a place.|
location/city/place/town:place
What is the weather in {0}?|What's the weather like in {0}?|How is the weather in {0} today?|Weather in {0}|Is it raining in {0}?|Tell me the weather for {0}.|Will it be sunny in {0}?|Do I need an umbrella in {0}?|weather {0} please|I am going to {0}, what is the weather there?|How warm is it in {0}?

get_forecast|weather_forecast|forecast
Get the weather forecast for some days.|Forecast the weather of a place.|
city/location/place:place days/n_days/num_days:integer
What is the forecast for {0} for the next {1} days?|Give me a {1}-day forecast for {0}.|Forecast for {0}, {1} days|How will the weather be in {0} over {1} days?|Show the weather forecast of {0} for {1} days.

calculator|calculate|calc|evaluate|compute
Evaluate an arithmetic expression.|A calculator.|Useful for arithmetic.|Compute the value of an expression.|Evaluates a mathematical expression and returns the result.
expression/expr/formula/calculation:expression
What is {0}?|Calculate {0}.|Compute {0}|How much is {0}?|{0}|Evaluate {0}.|What does {0} give?|Please calculate {0}|Use the calculator: {0}|What is the value of {0}?|What's {0}|Work out {0} for me.|{0} = ?

add|add_numbers|sum_two|plus|addition|adder
Add two numbers.|Adds a and b.|Return the sum of two integers.|Takes two integers, a and b.|
a/x/first/left:integer b/y/second/right:integer
What is {0} + {1}?|Add {0} and {1}.|What is {0} plus {1}?|add {0} to {1}|Compute the sum of {0} and {1}.|{0} + {1}|How much is {0} plus {1}?|What is the sum of {0} and {1}?|Sum {0} and {1}|What do {0} and {1} add up to?

multiply|multiply_numbers|times|product|multiplier
Multiply two numbers.|Multiplies a and b.|Return the product of two integers.|
a/x/first/left:integer b/y/second/right:integer
What is {0} * {1}?|Multiply {0} and {1}.|What is {0} times {1}?|multiply {0} by {1}|Compute the product of {0} and {1}.|{0} * {1}|How much is {0} times {1}?|What is the product of {0} and {1}?

subtract|minus|difference|subtract_numbers
Subtract b from a.|Return the difference of two numbers.|Subtract two numbers.
a/x/first:integer b/y/second:integer
What is {0} - {1}?|Subtract {1} from {0}.|What is {0} minus {1}?|{0} minus {1}|Compute {0} - {1}.

divide|division|quotient|divide_numbers
Divide a by b.|Return the quotient of two numbers.|Divide two numbers.
a/x/numerator:number b/y/denominator:number
What is {0} / {1}?|Divide {0} by {1}.|What is {0} divided by {1}?|{0} divided by {1}|Compute {0} / {1}.

power|exponentiate|pow
Raise a number to a power.|Compute base ** exponent.
base/x:integer exponent/y/n:integer
What is {0} to the power of {1}?|Raise {0} to the power {1}.|{0} to the {1}th power|Compute {0} ** {1}.|What is {0}^{1}?

square_root|sqrt|root
Compute the square root of a number.|Square root.
x/number/value:number
What is the square root of {0}?|Square root of {0}|Take the root of {0}.|sqrt({0})|Compute the square root of {0}.

read_file|open_file|load_file|file_reader|cat|get_file
Read a file.|Return the contents of a text file.|Reads the file at a path.|Read a file and return its text.|
path/file_path/filename/file/name:path
Read {0}|Read the file {0}.|What is in {0}?|Show me {0}.|Open {0}.|What does {0} say?|What does the file {0} contain?|Show the contents of {0}.|Print {0}|Load {0} please.|Look into {0}.|Have a look at the file {0}

write_file|save_file|create_file
Write text to a file.|Save content under a path.|
path/file_path/filename:path content/text/data:sentence
Write {1} to {0}.|Save {1} in the file {0}.|Create {0} with the content {1}|Put {1} into {0}.

list_directory|list_folder|ls|list_dir
List the files in a directory.|Show what a folder holds.|
path/directory/folder:word
List the files in {0}.|What files are in the folder {0}?|Show the directory {0}.|ls {0}|Which files does {0} hold?

search|search_text|search_code|grep|find_text|search_repository|search_files
Search for a text.|Search the repository for a query.|Find lines that contain the query.|Full-text search.|Search the files for some text.
query/text/pattern/q/term:phrase
Search for {0}.|Search {0}|Find {0}|Look for {0}.|Where is {0} mentioned?|search the repository for {0}|Search the code for {0}.|Find all lines with {0}|Please search for {0}|Which files mention {0}?|Do a search for {0}|Grep for {0}

web_search|search_web|internet_search|google|duckduckgo
Search the web.|Search the internet for a query.|A search engine. Useful for questions about current events.|
query/q/search_query:phrase
Search the web for {0}.|Google {0}.|Look up {0} on the internet.|Find {0} online.|Search the internet for {0}|web search: {0}|What does the web say about {0}?

wikipedia|wiki_lookup|encyclopedia
Look up an article in the encyclopedia.|Get a summary of a topic from Wikipedia.
topic/title/query/subject:word
Who is {0}?|What is {0}?|Look up {0} in Wikipedia.|Tell me about {0}.|Look {0} up.|Give me a summary about {0}

send_email|email|mail|send_mail
Send an email.|Send a message to an address.|
to/recipient/address:email subject/title:phrase body/text/message/content:sentence
Send an email to {0} with the subject {1} and the text {2}|Email {0}, subject {1}: {2}|Mail {0} about {1} saying {2}|Write an email to {0} with subject {1} and body {2}

send_message|message|text_message|notify
Send a message to a person.|Send a text to somebody.|
recipient/to/person/contact:person text/message/body:sentence
Tell {0}: {1}|Send {0} the message {1}|Text {0} {1}|Send a message to {0}: {1}|Message {0} that {1}|Let {0} know: {1}

set_alarm|alarm|wake_up
Set an alarm.|Set an alarm at a time.
time/at/hour:clock
Set an alarm for {0}.|Wake me at {0}.|alarm at {0}|Please wake me up at {0}.|Set my alarm to {0}

set_timer|timer|start_timer
Start a timer.|Set a timer of some minutes.
minutes/duration/n_minutes:integer
Set a timer for {0} minutes.|Start a {0} minute timer.|Timer: {0} minutes|Remind me in {0} minutes.

create_event|add_event|schedule_meeting|calendar
Add an event to the calendar.|Schedule a meeting.|
title/name/event/subject:phrase date/day/on:date time/start/at:clock?
Schedule {0} on {1} at {2}.|Put {0} in the calendar on {1}.|Create the event {0} for {1} at {2}|Add {0} on {1}.|Plan {0} for {1}, {2}.

create_user|add_user|register_user|new_customer|add_contact|create_account
Create a user.|Register a customer.|Add a person to the database.|
name/user_name/full_name/customer:person age/years:integer? email/mail:email?
Create a user named {0}.|Add the user {0}, age {1}.|Register {0} with the email {2}.|Create an account for {0}, {1} years old, {2}|New customer: {0}|Add a customer called {0}|Create a user with the name {0} and the age {1}.

create_company|add_client|new_supplier|register_company
Create a company in its own language.|Add a client with a description.|Tool for adding a firm.
company_name/client/supplier/name:script description/about/note/summary:phrase
Create a company named {0} ({1})|Add the client {0} - {1}|Create a supplier called {0}, a {1}|Register {0} - a {1}|New company {0}: {1}

translate|translate_text|translator
Translate text into a language.|Translate a text.|
text/sentence/phrase:sentence language/target/target_language/to:word
Translate {0} to {1}.|Translate {0} into {1}|How do you say {0} in {1}?|What is {0} in {1}?|Say {0} in {1}.

convert_currency|exchange|currency_converter
Convert an amount from one currency to another.|Convert money.
amount/value:number from_currency/source/from:code to_currency/target/to:code
Convert {0} {1} to {2}.|How much is {0} {1} in {2}?|What are {0} {1} in {2}?|Exchange {0} {1} for {2}|{0} {1} in {2}

convert_units|unit_converter|convert
Convert a value between units.|Unit conversion.
value/amount/quantity:number from_unit/source/unit:word to_unit/target/into:word
Convert {0} {1} to {2}.|How many {2} are {0} {1}?|What is {0} {1} in {2}?|Change {0} {1} into {2}

get_time|current_time|time_in|clock
Get the current time in a city.|Return the time in a timezone.
city/timezone/location/place:place
What time is it in {0}?|Time in {0}|Tell me the time in {0}.|What is the current time in {0}?|How late is it in {0}?

now|get_current_time|today|current_date
Return the current time.|Get today's date.|What time it is.
-
What time is it?|What is the time?|Tell me the time.|Which day is it today?|What's the date today?|What is the current time?

get_stock_price|stock_price|quote|stock
Get the price of a stock.|Return the current quote of a symbol.
symbol/ticker/stock:code
What is the stock price of {0}?|Price of {0}|How much is a share of {0}?|Quote {0}|What does {0} cost at the exchange?|Get the quote of {0}

get_population|population|count_people
Get the population of a place.|How many people live in a city.
city/place/country:place
How many people live in {0}?|What is the population of {0}?|Population of {0}|How big is {0}?

get_capital|capital|capital_of
Return the capital of a country.|Look up a country's capital.
country/nation/state:place
What is the capital of {0}?|Capital of {0}|Which city is the capital of {0}?|Tell me the capital of {0}.

play_music|play_song|player
Play a song.|Play music by title.
title/song/track:phrase artist/by/band:person?
Play {0}.|Play the song {0} by {1}.|I want to hear {0}|Put on {0} by {1}|Please play {0}

turn_on_light|light_on|switch_light
Turn on the light in a room.|Switch a lamp.
room/where/lamp:word brightness/level:integer?
Turn on the light in the {0}.|Light on in the {0} at {1} percent|Switch on the {0} light.|Set the {0} light to {1}.

set_temperature|thermostat|heat
Set the temperature of a room.|Control the heating.
degrees/temperature/target:number room/zone:word?
Set the temperature to {0} degrees.|Heat the {1} to {0} degrees.|Make it {0} degrees in the {1}|Set {0} degrees

book_flight|flight|find_flights
Book a flight.|Find flights between two cities.
origin/from_city/departure/source:place destination/to_city/arrival/target:place date/day/on:date?
Book a flight from {0} to {1}.|I need a flight from {0} to {1} on {2}.|Fly me to {1} from {0} on {2}|Find flights from {0} to {1} on {2}.|Flight {0} to {1}, {2}

book_table|reserve_table|restaurant
Reserve a table.|Book a table at a restaurant.
restaurant/name/place:person people/guests/n_people:integer time/at:clock
Book a table for {1} at {0} at {2}.|Reserve a table at {0} for {1} people at {2}|Table for {1} at {0}, {2} please

get_distance|distance|route_length
Compute the distance between two places.|How far two cities are apart.
start/origin/from_place:place end/destination/to_place:place
How far is it from {0} to {1}?|Distance from {0} to {1}|What is the distance between {0} and {1}?|How many kilometres are between {0} and {1}?

get_user|find_user|lookup_user|user_info
Get a user by id.|Look up a user.
user_id/id/uid:integer
Who is user {0}?|Get user {0}.|Show the user with the id {0}.|Look up user number {0}|Find user {0}

get_order|order_status|track_order
Get the status of an order.|Track an order by its number.
order_id/order/number/id:code
Where is my order {0}?|What is the status of order {0}?|Track {0}|Show me the order {0}.|Check order {0}

run_python|python|execute_code|python_repl
Run Python code and return its output.|Execute code.
code/source/program:expression
Run {0} in Python.|Execute {0}|Run the code {0}|python: {0}

run_sql|query_database|sql
Run a query on the database.|Query a table.
table/name:identifier limit/n/max_rows:integer?
Show the table {0}.|Get {1} rows of {0}|Select {1} rows from {0}.|Query the table {0}|First {1} rows of {0}

generate_story|make_story|write_poem|make_speech|write_letter
Generate a text in a style of writing.|Write something in a particular style.
style/tone/manner/kind:word
Generate a {0} story.|Using the tool, make a {0} speech.|Write a {0} poem.|Use the tool to make a {0} letter.|Make a {0} text

Riddle|Puzzle|Quip|Pun
Riddle to tell the user.|A pun to tell.|
question/opening/start/first_line:phrase answer/ending/solution/last_line:phrase
Tell me a riddle: {0} - {1}|The riddle {0} has the answer {1}|Riddle: {0}, answer: {1}

Person|User|Employee|Customer|Profile
Information about a person.|A person.|Extract a person.|
name/full_name/person:person age/years:integer city/home/place/town:place?
{0} is {1} years old.|{0} is {1} years old and lives in {2}.|{0}, {1}, lives in {2}.|My name is {0}, I am {1} and live in {2}.|Extract the person: {0} from {2} is {1} years old|At {1}, {0} moved to {2}.|{0} (age {1})

Product|Item|Article|Purchase
A product with its price.|Extract a product.|
name/title/product:word price/cost/amount:number quantity/count/stock:integer?
The {0} costs {1}.|{0}: {1} euros, {2} in stock|Extract the product: {2} pieces of {0} at {1} dollars each.|We have {2} {0} for {1} each.|A {0} for {1}

Event|Meeting|Appointment
An event with date and place.|Extract the event.|
title/name/event:phrase date/day/when:date location/place/where:place?
{0} takes place on {1} in {2}.|On {1} there is {0}.|Extract the event: {0}, {1}, {2}.|{0} is on {1}

Review|Sentiment|Rating
A review.|Rate a text.|
text/review/comment:sentence stars/rating/score:integer
{0} ({1} stars)|The review {0} gave {1} stars.|{1} stars: {0}

Address|PostalAddress|Home
A postal address.|Extract the address.|
street/road:person number/house_number/nr:integer city/town:place
I live at {0} {1} in {2}.|{0} {1}, {2}|Send it to {0} {1}, {2}.|The address is {1} {0}, {2}
""")
