"""More ways to ask for the topics: whole questions for training, beside the topics' phrases.

A topic's name, then questions that no template makes. None is a held-out wording; dialogues.py
checks that.
"""

from __future__ import annotations

import re

_TEXT = """
sort-list:
    My list is unsorted, how do I sort it?
    What sorts the items of a list?
    The numbers in my list should be in sorted order
    How does sorting a list work?
sort-descending:
    How do I sort so that the largest comes first?
    The highest number should come first in my list
    Which option makes sorted() go downwards?
    sorted list from the biggest number to the smallest
reverse-list:
    How can a list be read from back to front?
    My list should be the other way round
    What flips a list?
    list backwards
remove-duplicates:
    There are duplicates in my list, how can I get rid of them?
    How do I keep every value of a list only once?
    Each value should appear one time only
    list without repeated values
append-item:
    What puts one more item behind the last one of a list?
    My list needs another element at its end
    How can a list be extended by one element?
    Which method appends?
remove-item:
    There is a particular value in my list that I don't want
    What takes a given item out of a list?
    How does a list lose one element?
    Which method removes a value from a list?
filter-list:
    I only want the even numbers
    How do I pick the values that satisfy a condition?
    What keeps just some of the items of a list?
    Only matching elements of a list should stay
map-list:
    How are all the numbers of a list squared?
    Show a list comprehension
    I want a new list with each number squared
    What does a list comprehension look like?
flatten-list:
    I have a list with lists inside it
    How do sublists become one flat list?
    My list is nested, I want it flat
    list of lists to one flat list
last-item:
    What is the last thing in my list?
    How is the final element accessed?
    I want only the last one of a list
    index of the last item, negative index
slice-list:
    I want only the first few items of a list
    What does slicing look like?
    Which syntax takes the first elements?
    just the first three elements
sum-list:
    How are all numbers in a list added up?
    What adds up my prices?
    I need the total of the numbers in a list
    Which function sums?
max-min:
    What is the highest number in my list?
    Which value of a list is the greatest, which the least?
    How do max and min work?
    function for the largest value
average:
    What is the mean of these numbers?
    How is an average worked out?
    I have several numbers and need their average
    Which function gives the mean?
count-items:
    How many times does every value occur in my list?
    What counts the items of a list?
    I want to know the frequency of each word
    Which value occurs most often?
enumerate:
    I need the position of every item inside a loop
    How do I know the index while looping?
    What gives index and element together?
    The loop should also know each element's number
zip-lists:
    Two lists should be looped over together
    How do I go through both lists item by item?
    What pairs the items of two lists?
    Two lists, one loop, how?
chunk-list:
    My list is long, I want pieces of n items
    How do I break a long list into pieces?
    What cuts a list into equal pieces?
    One list into several shorter ones of the same size
find-index:
    Where in my list is a value?
    At which index does an item stand?
    What tells me the position of a value?
    I need to learn the position of an element
in-list:
    Is a value inside my list?
    How do I know that a list has some element?
    What tests if some value exists in a list?
    Does my list contain green?
concatenate-lists:
    I have two lists and want one
    How do two lists become one list?
    What operator joins lists?
    One list out of two
copy-list:
    I want to change a list but keep the original
    What clones a list?
    How do I keep the original list unchanged?
    The copy must not change the original
sort-by-key:
    My list has dictionaries, how is it sorted by one of their keys?
    How do I order records by one field?
    What sorts dicts by age?
    Dictionaries in a list should be ordered by a field
sort-by-length:
    The shortest word should come first
    How are words sorted by their length?
    What orders strings by how long they are?
    Words from the shortest to the longest
random-choice:
    I want to draw one item by chance
    How is a random element of a list chosen?
    What picks something at random?
    One element by chance from my list
shuffle:
    The order of my list should be random
    How are the cards mixed?
    What mixes a list up?
    A random order for a list
any-all:
    Do all elements meet a condition?
    How do any and all work?
    I want to know if every element of a list is positive
    What verifies that all items satisfy something?
n-largest:
    What are the top three numbers in my list?
    I only need the three highest values
    How do I get the top scores?
    The best n values of a list
join-strings:
    My words should become one string
    How do I glue words together with commas?
    What joins words into one text?
    Many strings into a single one
split-string:
    My sentence should become separate words
    How do I get every word of a sentence?
    What cuts text into words?
    A sentence, and I want its words as a list
reverse-string:
    The letters of my text should be backwards
    How does a word read from the end?
    What reverses text?
    letters of a string from last to first
upper-case:
    Every letter should be a capital
    How do I get capitals?
    What makes text upper case or lower case?
    all capital letters
replace-text:
    One word in my text should be a different word
    How is a word swapped for another one?
    What replaces words in text?
    tea should become coffee in my string
strip:
    There are blanks around my text
    How do I get rid of spaces at both ends?
    What trims text?
    Text without the spaces around it
substring:
    Is a word inside my text?
    How do I know if some text occurs in a string?
    Does a longer string contain a shorter one?
    What finds a piece of text within a string?
starts-with:
    Does my text begin with some letters?
    How do I see if a name ends with .txt?
    What tests how a string begins or ends?
    text that begins with a given prefix
count-words:
    How many words are there in my text?
    I want to know how many words a text has
    What counts words?
    number of words of a sentence
f-string:
    How do values get into a text?
    I want a variable's value inside a message
    What are f-strings?
    The modern way to format text
two-decimals:
    A float should show two digits after the point
    How do I display a price like 3.14?
    Only two decimals, please, how?
    What formats a float with exactly two decimals?
zero-pad:
    I want 007 instead of 7
    How are zeros put in front of a number?
    Numbers with zeros in front, like 001
    What fills a number up with zeros?
palindrome:
    Is my word a palindrome?
    A word that is the same forwards and backwards, how do I test that?
    function for a word that reads the same in both directions
    What tells me that a text equals its reverse?
str-to-int:
    My string has digits and I need the number
    How does "42" become 42?
    What makes a number of a string?
    digits in text to a real int
int-to-str:
    I have an integer and need a string
    How does 42 become "42"?
    What makes text of a number?
    an int value as a string
create-dict:
    I want keys that map to values
    How does a dictionary look?
    What is the syntax of a dict?
    A mapping from names to ages
loop-dict:
    I want all entries of a dict, one by one
    How do I see every key with its value?
    What walks through a dictionary?
    all the entries of a dict in a for loop
dict-get:
    A key might be absent from my dict and I want a default
    How do I get no KeyError when the key is absent?
    What returns a default for keys that are not there?
    default if a dictionary lacks a key
merge-dicts:
    I have two dictionaries and want a single one
    How do two dicts become one?
    What operator merges dicts?
    One dictionary out of two
delete-key:
    I don't want a key in my dictionary any more
    How does an entry of a dict go away?
    What takes a key out of a dict?
    dictionary without one of its entries
sort-dict:
    The entries of my dict should be in order of value
    How is a dict ordered by its values?
    What sorts dictionaries by value?
    Dictionary entries from the lowest value to the highest
invert-dict:
    Keys should become values and values keys
    How do keys and values change places?
    What swaps the roles in a dict?
    values as keys, keys as values
key-exists:
    Is a key already in my dict?
    How do I tell that a dict has some key?
    Does my dictionary contain a key?
    What shows that a key is present in a dict?
dict-comprehension:
    How does a comprehension make a dict?
    Show a dict comprehension
    A dictionary in a single line from a list of words
    What is a dictionary comprehension?
group-items:
    Words with the same first letter should be together
    How are words gathered in groups?
    What groups things by a key?
    groups of words by first letter
set-operations:
    What do two lists have in common?
    Which elements are in both lists?
    How do I intersect sets?
    values that two lists share
unpack-tuple:
    I have a tuple and want its parts in variables
    How do the parts of a tuple get names?
    What takes a tuple apart?
    x and y from a point tuple
swap:
    a should be b and b should be a
    How do two variables change values?
    What interchanges two variables?
    contents of two variables, the other way round
read-file:
    I want everything in a text file as a string
    What reads a whole file?
    How does text get from a file into my program?
    all the text that a file contains
write-file:
    My text should be saved on disk
    What saves text in a file?
    How does text get into a new file?
    saving some text to disk
append-file:
    I want another line at the end of my file
    How does a file keep its lines and get one more?
    What writes behind the end of a file?
    a new line after the existing lines of a file
read-lines:
    I want each line of a file, one after the other
    How are the lines of a text file looped over?
    What goes over the lines of a file?
    every line of a text file
file-exists:
    Is my file really there?
    How can I be sure that a file exists?
    What tells me that a file is there before I open it?
    does a path exist
list-files:
    Which files are in my folder?
    How do I see what a folder holds?
    What finds the text files in a directory?
    all files of a folder
make-directory:
    My script needs a new folder
    How does a folder get created?
    What makes directories?
    a folder for my results
delete-file:
    I no longer need a file on disk
    How does a file get erased?
    What deletes files?
    get rid of a file
path-parts:
    Which extension does my file have?
    How do I find the name and the suffix of a path?
    What gives the stem of a path?
    the ending of a file name, like pdf
read-json:
    I have a JSON file and need its data
    How does JSON get from a file into my program?
    What loads JSON files?
    data from config.json
write-json:
    My dict should be stored as JSON on disk
    How does a dictionary get into a JSON file?
    What stores data in JSON format?
    saving a dict in a JSON file
parse-json:
    I have JSON in a string, not in a file
    How does a JSON string become a dict?
    What makes a dict of JSON text?
    received JSON text, need a dict
read-csv:
    I have a CSV and want its rows
    How do I get to the rows of a CSV?
    What reads CSV tables?
    each row of a csv as a dict
write-csv:
    My rows should become a CSV
    How does a table get exported to CSV?
    What writes CSV?
    table rows into a csv
current-date:
    What day is it today?
    How does my program know the date?
    Which function tells today's date?
    what time is it now in Python
format-date:
    I want a date as 17.05.2024
    How do I print the day before the month?
    What formats dates?
    a date in my own format
parse-date:
    I have a date as text and need a datetime
    How does 2024-05-17 become a date?
    What reads dates from strings?
    datetime from a string
add-days:
    What date is it in ten days?
    How do I compute the day one week later?
    Which date is 10 days after another?
    a date some days later
date-difference:
    How many days are there from one date to another?
    How long is it until Christmas in days?
    What is the distance between dates?
    days from one day to the next date
measure-time:
    How many seconds does my code need?
    I want to know how long my function runs
    What shows the running time?
    seconds that my code takes
sleep:
    My script should stop for a moment
    How does a program do nothing for a second?
    What delays a script?
    wait before going on
find-numbers:
    My text has numbers and I need all of them
    How are the numbers pulled from text?
    What finds every number in a string?
    all digits in some text with re
regex-replace:
    Whatever matches my pattern should be replaced
    How is a regex used to substitute?
    What replaces matches of a pattern?
    regex substitution
validate-email:
    Is this a valid email?
    How do I know that an email address looks right?
    Did the user type a real email address?
    What checks email addresses?
class:
    What does a class look like?
    How do __init__ and methods work?
    I want an object with data and a method
    a small class with an initializer
inheritance:
    How does one class build on another?
    What does a child class look like?
    A cat is an animal, how do I write that with classes?
    derive a class from a base class
dataclass:
    I want a class with fields and no __init__
    How does @dataclass work?
    A class of plain fields
    What saves me from writing __init__?
property:
    I want to read a method like an attribute
    How does @property work?
    A value that is computed when it is read
    What turns a method into an attribute?
enum:
    I need a fixed set of constants
    How does Enum work?
    A few named values, like colors
    What are enums?
function:
    What does a function look like?
    How does def work?
    I want code with parameters and a return value
    the syntax of def
default-argument:
    Callers should be able to leave out an argument
    How does a parameter get a default?
    An argument that may be left out
    What makes a parameter optional?
args-kwargs:
    My function should take as many arguments as are given
    What do the stars in *args mean?
    How does a function take however many arguments?
    any arguments at all
lambda:
    What is a lambda?
    How does a function without a name look?
    A one-line anonymous function
    short nameless function
generator:
    How does yield work?
    I want a function that gives values one after another
    What is a generator?
    values produced lazily by a function
decorator:
    How do decorators work?
    What does the @ above a function do?
    I want to wrap behaviour around a function
    adding behaviour to a function with @
cache:
    My function is slow and is called with the same arguments again
    How are results kept in memory?
    What avoids computing the same thing twice?
    repeated calls should be fast
context-manager:
    How does my own with statement work?
    I want something to happen before and after a block
    What is a context manager?
    my own thing for with
try-except:
    My program crashes with an error, what can I do?
    How do I go on after an error?
    What catches errors?
    deal with a ZeroDivisionError
raise:
    My function gets an invalid argument, how does it complain?
    How does a function tell its caller about a bad value?
    What raises an error?
    report a wrong argument with ValueError
custom-exception:
    I want my own error type
    How do I get an exception class of my own?
    What does a custom exception look like?
    a new kind of error
for-loop:
    How do I repeat code five times?
    What counts from 1 to 5?
    How does a for loop look?
    some code for every number up to 5
while-loop:
    How do I keep going while something is true?
    What does while look like?
    My code should run until a condition is no longer true
    countdown loop
if-else:
    How does a program decide?
    What does if elif else look like?
    Different code for different cases
    branch depending on a value
ternary:
    An if else on a single line
    How do I fit if and else into one expression?
    What is the conditional expression?
    inline if
factorial:
    What is n! in code?
    How does a function call itself?
    A recursive function, please
    5! with recursion
fibonacci:
    What are the first ten Fibonacci numbers?
    How is the Fibonacci sequence made?
    Fibonacci, please
    0 1 1 2 3 5 8 in code
prime:
    Is 17 prime?
    How do I decide if a number is prime?
    Code for prime numbers
    Does a number have divisors?
random-number:
    I need a random number
    How do I throw a die?
    What gives a random integer?
    simulate dice
round:
    My float has too many digits, I want it rounded
    How does round work?
    What brings a float to the nearest value?
    closest number with one decimal
square-root:
    What is the root of 16?
    How does sqrt work?
    Which math function takes the root?
    square root, please
binary:
    What are the bits of a number?
    How does 10 become 1010?
    An integer as bits
    text of zeros and ones to a number
permutations:
    In which orders can three letters stand?
    How do I see all orderings?
    Every possible order of some items
    What lists all permutations?
combinations:
    Which pairs can be made of these items?
    How do I get each possible pair?
    All pairs out of some items
    What chooses 2 out of 3 in all ways?
deque:
    I want to take items from the front
    How does a queue work?
    What is fast at both ends?
    a structure where the first item comes out first
environment:
    My program should look at an environment variable
    How does os.environ work?
    Where do settings from the environment come from?
    a setting of the environment
arguments:
    Users should be able to give my script options
    How do I get options from the shell?
    What reads sys.argv for me?
    command line options for my script
logging:
    I want log messages instead of print
    How does logging work?
    My program should record what it does
    What writes a log?
run-command:
    I want to start another program from my script
    How do I read what a command prints?
    What starts external programs?
    output of an external program
threads:
    Several calls should run at once
    How does a thread pool work?
    My functions should run in threads at the same time
    What runs calls in parallel?
asyncio:
    How do coroutines work?
    What starts a coroutine?
    async def, how?
    define a coroutine and start it
type-hints:
    Which types do my parameters have, and where do I write that?
    How do I state the type of a parameter?
    What do annotations look like?
    types of parameters and of the result
"""


def _parse(text: str) -> dict[str, tuple[str, ...]]:
    questions: dict[str, tuple[str, ...]] = {}
    for block in re.split(r"\n(?=\S)", text.strip()):
        name, *lines = block.splitlines()
        questions[name.removesuffix(":")] = tuple(line.strip() for line in lines)
    return questions


QUESTIONS = _parse(_TEXT)
