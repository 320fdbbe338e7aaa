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
    How do I get numbers into ascending order?
    Is there a simple way to sort?
    I want a sorted list
    smallest first, then the bigger ones
sort-descending:
    How do I sort so that the largest comes first?
    The highest number should come first in my list
    Which option makes sorted() go downwards?
    sorted list from the biggest number to the smallest
    How do I get descending order?
    I need the highest values at the front
    sort with the greatest number at the top
    reverse=True sorting
reverse-list:
    How can a list be read from back to front?
    My list should be the other way round
    What flips a list?
    list backwards
    The last item should come first and the first one last
    What gives me a list the other way around?
    quick way to turn a list around
    reversed copy of my list
remove-duplicates:
    There are duplicates in my list, how can I get rid of them?
    How do I keep every value of a list only once?
    Each value should appear one time only
    list without repeated values
    Some values occur several times in my list and should occur once
    How do I make the values of a list unique?
    Doubles in a list should vanish
    keep one of each value
append-item:
    What puts one more item behind the last one of a list?
    My list needs another element at its end
    How can a list be extended by one element?
    Which method appends?
    I have a list and want to put something at its end
    Where does append go?
    one more element at the end
    new last item for a list
remove-item:
    There is a particular value in my list that I don't want
    What takes a given item out of a list?
    How does a list lose one element?
    Which method removes a value from a list?
    How do I delete "pear" from my list?
    One value should be gone from a list
    a list without one certain element
    take one thing out of a list
filter-list:
    I only want the even numbers
    How do I pick the values that satisfy a condition?
    What keeps just some of the items of a list?
    Only matching elements of a list should stay
    Odd numbers should be left out
    How do I select some values out of a list?
    Just the even values please
    list comprehension with if
map-list:
    How are all the numbers of a list squared?
    Show a list comprehension
    I want a new list with each number squared
    What does a list comprehension look like?
    Every number should be multiplied by itself
    How do I do something with each item and keep the results?
    comprehension for squares
    the square of each number
flatten-list:
    I have a list with lists inside it
    How do sublists become one flat list?
    My list is nested, I want it flat
    list of lists to one flat list
    Inner lists should vanish and their items stay in one list
    What flattens?
    lists inside of lists, made flat
    one flat list out of nested ones
last-item:
    What is the last thing in my list?
    How is the final element accessed?
    I want only the last one of a list
    index of the last item, negative index
    How do I read the item at the very end?
    The element at the end of a list, please
    final thing in a list
    list minus one index
slice-list:
    I want only the first few items of a list
    What does slicing look like?
    Which syntax takes the first elements?
    just the first three elements
    The beginning of a list, say three elements
    How do I take just a few items from the front of a list?
    part of a list with a colon
    a piece of a list
sum-list:
    How are all numbers in a list added up?
    What adds up my prices?
    I need the total of the numbers in a list
    Which function sums?
    How much is everything in my list together?
    Add the numbers of a list
    grand total of numbers
    sum of all values
max-min:
    What is the highest number in my list?
    Which value of a list is the greatest, which the least?
    How do max and min work?
    function for the largest value
    Which number is the biggest one?
    How do I tell the lowest and the highest value?
    the greatest item in a list
    extremes of a list
average:
    What is the mean of these numbers?
    How is an average worked out?
    I have several numbers and need their average
    Which function gives the mean?
    How do I work out a mean?
    The mean of numbers, please
    several values, what is their average?
    mean and statistics module
count-items:
    How many times does every value occur in my list?
    What counts the items of a list?
    I want to know the frequency of each word
    Which value occurs most often?
    Tally the values of a list
    How often is red in my list?
    How do I know how many there are of each value?
    frequencies in a list
enumerate:
    I need the position of every item inside a loop
    How do I know the index while looping?
    What gives index and element together?
    The loop should also know each element's number
    In a for loop I also want the index
    How do I print each element with its position?
    position and element while looping
    the loop needs a counter
zip-lists:
    Two lists should be looped over together
    How do I go through both lists item by item?
    What pairs the items of two lists?
    Two lists, one loop, how?
    Names in one list, ages in another, one loop
    How do I walk along two lists side by side?
    two lists in step
    items of two lists as pairs
chunk-list:
    My list is long, I want pieces of n items
    How do I break a long list into pieces?
    What cuts a list into equal pieces?
    One list into several shorter ones of the same size
    A big list should be cut into small ones
    How do I make batches?
    pieces of a list, each with the same number of items
    list in blocks of two
find-index:
    Where in my list is a value?
    At which index does an item stand?
    What tells me the position of a value?
    I need to learn the position of an element
    At what position does green stand?
    How do I get to know the index of a value?
    where an item is in a list
    the place of a value in a list
in-list:
    Is a value inside my list?
    How do I know that a list has some element?
    What tests if some value exists in a list?
    Does my list contain green?
    How do I ask if an item is there?
    Is some value one of the elements?
    membership test with in
    a value, is it in the list?
concatenate-lists:
    I have two lists and want one
    How do two lists become one list?
    What operator joins lists?
    One list out of two
    The items of both lists should be in one
    How do I add lists with plus?
    make a single list of two lists
    both lists in one
copy-list:
    I want to change a list but keep the original
    What clones a list?
    How do I keep the original list unchanged?
    The copy must not change the original
    If I change the copy the original should stay as it was
    How do I get a second list with the same items?
    clone that is independent of the original
    the same list again, as a new object
sort-by-key:
    My list has dictionaries, how is it sorted by one of their keys?
    How do I order records by one field?
    What sorts dicts by age?
    Dictionaries in a list should be ordered by a field
    People with names and ages should be sorted by age
    How do I use key= with a list of dicts?
    dicts in order of one field
    records ordered by a field
sort-by-length:
    The shortest word should come first
    How are words sorted by their length?
    What orders strings by how long they are?
    Words from the shortest to the longest
    Short words first, long words later
    How do I order words so short ones lead?
    length as the sort key
    shortest string first
random-choice:
    I want to draw one item by chance
    How is a random element of a list chosen?
    What picks something at random?
    One element by chance from my list
    Some item, whichever, at random
    How do I let chance pick one?
    choose by luck from a list
    one random value
shuffle:
    The order of my list should be random
    How are the cards mixed?
    What mixes a list up?
    A random order for a list
    Cards should be mixed
    How do I bring a list into random order?
    mix the items
    list in a chance order
any-all:
    Do all elements meet a condition?
    How do any and all work?
    I want to know if every element of a list is positive
    What verifies that all items satisfy something?
    Every element meets the condition, true or false?
    How do I see if at least one is odd?
    verify a condition for all elements
    are they all positive
n-largest:
    What are the top three numbers in my list?
    I only need the three highest values
    How do I get the top scores?
    The best n values of a list
    The best three scores, please
    How do I find the top values?
    only the top three
    highest three
join-strings:
    My words should become one string
    How do I glue words together with commas?
    What joins words into one text?
    Many strings into a single one
    Many words, one string, with commas between them
    How do I put words together to one text?
    glue strings
    separator between words
split-string:
    My sentence should become separate words
    How do I get every word of a sentence?
    What cuts text into words?
    A sentence, and I want its words as a list
    A text should fall apart into its words
    How do I separate the words of a sentence?
    cut at the spaces
    words of a text as a list
reverse-string:
    The letters of my text should be backwards
    How does a word read from the end?
    What reverses text?
    letters of a string from last to first
    How do I write a word backwards?
    python becomes nohtyp
    text with letters in the opposite order
    mirror a word
upper-case:
    Every letter should be a capital
    How do I get capitals?
    What makes text upper case or lower case?
    all capital letters
    Small letters should become big ones
    How do I turn text into capitals?
    every letter a capital letter
    lower letters to capitals
replace-text:
    One word in my text should be a different word
    How is a word swapped for another one?
    What replaces words in text?
    tea should become coffee in my string
    In a sentence tea should be coffee
    How do I put another word in place of one?
    change all occurrences of a word
    another word instead
strip:
    There are blanks around my text
    How do I get rid of spaces at both ends?
    What trims text?
    Text without the spaces around it
    A string has spaces in front and behind
    How do I lose blanks around text?
    blanks at both ends, away with them
    no spaces at the start and the end
substring:
    Is a word inside my text?
    How do I know if some text occurs in a string?
    Does a longer string contain a shorter one?
    What finds a piece of text within a string?
    Does quick occur in my sentence?
    How do I look for some letters in a longer text?
    a piece of text in another, is it there?
    text contains text
starts-with:
    Does my text begin with some letters?
    How do I see if a name ends with .txt?
    What tests how a string begins or ends?
    text that begins with a given prefix
    Is report the beginning of the name?
    How do I test the first letters of text?
    does it begin with these letters
    a file name ending in .txt
count-words:
    How many words are there in my text?
    I want to know how many words a text has
    What counts words?
    number of words of a sentence
    My sentence has how many words?
    How do I compute the number of words?
    words, how many
    length of a text in words
f-string:
    How do values get into a text?
    I want a variable's value inside a message
    What are f-strings?
    The modern way to format text
    A name and an age should be in my message
    How do I place values inside text?
    text with values in braces
    message with a variable inside
two-decimals:
    A float should show two digits after the point
    How do I display a price like 3.14?
    Only two decimals, please, how?
    What formats a float with exactly two decimals?
    3.14159 should be shown as 3.14
    How do I write a float with two digits?
    exactly two digits behind the point
    display cents
zero-pad:
    I want 007 instead of 7
    How are zeros put in front of a number?
    Numbers with zeros in front, like 001
    What fills a number up with zeros?
    7 should be 007
    How do I write numbers with three digits, zeros in front?
    zeros before the number
    5 as 005
palindrome:
    Is my word a palindrome?
    A word that is the same forwards and backwards, how do I test that?
    function for a word that reads the same in both directions
    What tells me that a text equals its reverse?
    Is level the same from both sides?
    How do I compare a word with its mirror image?
    same word in both directions
    a function for palindromes
str-to-int:
    My string has digits and I need the number
    How does "42" become 42?
    What makes a number of a string?
    digits in text to a real int
    I typed a number but it is text
    How do I calculate with digits that are in a string?
    string in, integer out
    the number in a string
int-to-str:
    I have an integer and need a string
    How does 42 become "42"?
    What makes text of a number?
    an int value as a string
    A number should become text so that I can add it to a message
    How do I get a string from an integer?
    integer in, string out
    number value to string value
create-dict:
    I want keys that map to values
    How does a dictionary look?
    What is the syntax of a dict?
    A mapping from names to ages
    Names should lead to ages
    How do I set up keys with values?
    a new mapping with keys
    braces with keys and values
loop-dict:
    I want all entries of a dict, one by one
    How do I see every key with its value?
    What walks through a dictionary?
    all the entries of a dict in a for loop
    Each key and its value should be printed
    How do I visit all entries of a mapping?
    keys and values, one after the other
    walk over dict entries
dict-get:
    A key might be absent from my dict and I want a default
    How do I get no KeyError when the key is absent?
    What returns a default for keys that are not there?
    default if a dictionary lacks a key
    If the key is not there I want 0
    How do I read a key that perhaps does not exist?
    a default for absent keys
    dict lookup without an error
merge-dicts:
    I have two dictionaries and want a single one
    How do two dicts become one?
    What operator merges dicts?
    One dictionary out of two
    Defaults and custom settings in one dict
    How do I put one dict on top of another?
    a single dictionary of two
    both dictionaries in one
delete-key:
    I don't want a key in my dictionary any more
    How does an entry of a dict go away?
    What takes a key out of a dict?
    dictionary without one of its entries
    Bob should go away from my dict
    How do I take an entry out of a dictionary?
    dictionary entry, gone
    a key that should vanish from a dict
sort-dict:
    The entries of my dict should be in order of value
    How is a dict ordered by its values?
    What sorts dictionaries by value?
    Dictionary entries from the lowest value to the highest
    Scores in a dict, lowest first
    How do I put dict entries in order?
    order of values in a dictionary
    dictionary sorted by numbers
invert-dict:
    Keys should become values and values keys
    How do keys and values change places?
    What swaps the roles in a dict?
    values as keys, keys as values
    From value to key instead of key to value
    How do I exchange keys and values?
    a dict the other way round
    roles of keys and values swapped
key-exists:
    Is a key already in my dict?
    How do I tell that a dict has some key?
    Does my dictionary contain a key?
    What shows that a key is present in a dict?
    Is Ada a key of my dict?
    How do I know that a key is there?
    key present or not
    some key in a dict, yes or no
dict-comprehension:
    How does a comprehension make a dict?
    Show a dict comprehension
    A dictionary in a single line from a list of words
    What is a dictionary comprehension?
    Words to their lengths as a dict, in one line
    How do I write a comprehension with key and value?
    comprehension for dictionaries
    dict with for inside braces
group-items:
    Words with the same first letter should be together
    How are words gathered in groups?
    What groups things by a key?
    groups of words by first letter
    apple and avocado together, banana alone
    How do I sort things into groups?
    gather items with the same key
    lists of words per letter
set-operations:
    What do two lists have in common?
    Which elements are in both lists?
    How do I intersect sets?
    values that two lists share
    What is in a and also in b?
    How do I find shared values?
    elements that both have
    common values with &
unpack-tuple:
    I have a tuple and want its parts in variables
    How do the parts of a tuple get names?
    What takes a tuple apart?
    x and y from a point tuple
    A point should become x and y
    How do I give names to the items of a tuple?
    parts of a tuple, separate variables
    tuple to names
swap:
    a should be b and b should be a
    How do two variables change values?
    What interchanges two variables?
    contents of two variables, the other way round
    The contents of a and b should trade places
    How do I let two variables trade values?
    a, b = b, a
    interchange two values
read-file:
    I want everything in a text file as a string
    What reads a whole file?
    How does text get from a file into my program?
    all the text that a file contains
    The whole text of a file, please
    How do I open a file for reading?
    contents of a text file
    everything in a file
write-file:
    My text should be saved on disk
    What saves text in a file?
    How does text get into a new file?
    saving some text to disk
    A string should go into a new file
    How do I put text in a file?
    text onto disk
    output to a text file
append-file:
    I want another line at the end of my file
    How does a file keep its lines and get one more?
    What writes behind the end of a file?
    a new line after the existing lines of a file
    Add to what a file already has
    How do I write more behind the existing text of a file?
    another line in the same file
    a file should get longer by a line
read-lines:
    I want each line of a file, one after the other
    How are the lines of a text file looped over?
    What goes over the lines of a file?
    every line of a text file
    Print each line of a text file
    How do I go over a file by lines?
    lines of a file, one by one
    for line in file
file-exists:
    Is my file really there?
    How can I be sure that a file exists?
    What tells me that a file is there before I open it?
    does a path exist
    Before I open a file I want to be sure it is there
    How do I test for a file?
    file there or not
    make sure of a file
list-files:
    Which files are in my folder?
    How do I see what a folder holds?
    What finds the text files in a directory?
    all files of a folder
    Show me what is in a folder
    How do I get the names of all txt files?
    text files in this folder
    folder contents
make-directory:
    My script needs a new folder
    How does a folder get created?
    What makes directories?
    a folder for my results
    A folder that is not there yet
    How do I get a new directory?
    folder, create it
    new folder from a script
delete-file:
    I no longer need a file on disk
    How does a file get erased?
    What deletes files?
    get rid of a file
    A file that nobody needs any more should go
    How do I wipe a file off the disk?
    file, away with it
    erase from disk
path-parts:
    Which extension does my file have?
    How do I find the name and the suffix of a path?
    What gives the stem of a path?
    the ending of a file name, like pdf
    report.pdf has which ending?
    How do I take a path apart?
    suffix and stem
    file name without the folder
read-json:
    I have a JSON file and need its data
    How does JSON get from a file into my program?
    What loads JSON files?
    data from config.json
    Settings lie in a JSON file and I want them as a dict
    How do I get JSON data off the disk?
    JSON file into Python data
    bring json from a file into a program
write-json:
    My dict should be stored as JSON on disk
    How does a dictionary get into a JSON file?
    What stores data in JSON format?
    saving a dict in a JSON file
    A dict should be kept in a JSON file
    How do I put data out as JSON?
    dictionary onto disk as json
    json.dump
parse-json:
    I have JSON in a string, not in a file
    How does a JSON string become a dict?
    What makes a dict of JSON text?
    received JSON text, need a dict
    A server sent JSON text
    How do I understand a JSON string?
    text with json to a dict
    json.loads
read-csv:
    I have a CSV and want its rows
    How do I get to the rows of a CSV?
    What reads CSV tables?
    each row of a csv as a dict
    A table as CSV, and I want to go through its rows
    How do I see each row of a CSV?
    rows out of a csv
    csv.DictReader
write-csv:
    My rows should become a CSV
    How does a table get exported to CSV?
    What writes CSV?
    table rows into a csv
    Rows of a table should go into a CSV
    How do I export to CSV?
    table to csv
    rows into csv
current-date:
    What day is it today?
    How does my program know the date?
    Which function tells today's date?
    what time is it now in Python
    The day today, please
    How do I find out what date it is?
    now
    date of today
format-date:
    I want a date as 17.05.2024
    How do I print the day before the month?
    What formats dates?
    a date in my own format
    Day, then month, then year, as text
    How do I print a date in the form I like?
    a date as nice text
    strftime
parse-date:
    I have a date as text and need a datetime
    How does 2024-05-17 become a date?
    What reads dates from strings?
    datetime from a string
    Text in, date out
    How do I obtain a date from a string like 2024-05-17?
    string with a date to a datetime
    strptime
add-days:
    What date is it in ten days?
    How do I compute the day one week later?
    Which date is 10 days after another?
    a date some days later
    Ten days from a date is which date?
    How do I move a date forward?
    a date plus days
    timedelta
date-difference:
    How many days are there from one date to another?
    How long is it until Christmas in days?
    What is the distance between dates?
    days from one day to the next date
    Two dates, and the days that lie between
    How do I count days from a date to another date?
    one date minus another
    distance in days
measure-time:
    How many seconds does my code need?
    I want to know how long my function runs
    What shows the running time?
    seconds that my code takes
    Is my code slow, how many seconds does it take?
    How do I take the time of my code?
    stopwatch for code
    seconds of running
sleep:
    My script should stop for a moment
    How does a program do nothing for a second?
    What delays a script?
    wait before going on
    My script should make a break
    How do I let a program rest for a second?
    a pause of a moment
    stop a moment, then go on
find-numbers:
    My text has numbers and I need all of them
    How are the numbers pulled from text?
    What finds every number in a string?
    all digits in some text with re
    3 apples and 12 pears, I want 3 and 12
    How do I pick numbers out of text?
    numbers that stand in a text
    every number in a string as a list
regex-replace:
    Whatever matches my pattern should be replaced
    How is a regex used to substitute?
    What replaces matches of a pattern?
    regex substitution
    All digits should become #
    How do I swap whatever a pattern matches?
    replacing with re
    pattern in, new text out
validate-email:
    Is this a valid email?
    How do I know that an email address looks right?
    Did the user type a real email address?
    What checks email addresses?
    ada@example.com is fine, nobody is not
    How do I test what a user typed as email?
    plausible email address or not
    email with a pattern
class:
    What does a class look like?
    How do __init__ and methods work?
    I want an object with data and a method
    a small class with an initializer
    A dog with a name that can speak
    How do I write __init__ and a method?
    my first class
    class with an initializer and a method
inheritance:
    How does one class build on another?
    What does a child class look like?
    A cat is an animal, how do I write that with classes?
    derive a class from a base class
    Cat should be an Animal
    How do I base one class on another?
    child and parent classes
    a class derived from another
dataclass:
    I want a class with fields and no __init__
    How does @dataclass work?
    A class of plain fields
    What saves me from writing __init__?
    A point with x and y and nothing else
    How do I save writing __init__ for plain fields?
    class of fields
    fields without boilerplate
property:
    I want to read a method like an attribute
    How does @property work?
    A value that is computed when it is read
    What turns a method into an attribute?
    circle.diameter instead of circle.diameter()
    How do I make a method look like an attribute?
    attribute that is computed by a method
    method without parentheses
enum:
    I need a fixed set of constants
    How does Enum work?
    A few named values, like colors
    What are enums?
    RED and GREEN as names for fixed values
    How do I make a fixed set of names?
    constants that belong together
    set of named values
function:
    What does a function look like?
    How does def work?
    I want code with parameters and a return value
    the syntax of def
    Code that I can call with two numbers
    How do I give a function two parameters and a result?
    def with return
    a function with a result
default-argument:
    Callers should be able to leave out an argument
    How does a parameter get a default?
    An argument that may be left out
    What makes a parameter optional?
    The greeting should be Hello if nobody gives one
    How do I let a caller omit a parameter?
    parameter that need not be given
    optional parameter of a function
args-kwargs:
    My function should take as many arguments as are given
    What do the stars in *args mean?
    How does a function take however many arguments?
    any arguments at all
    As many arguments as a caller likes
    How do I take arguments without knowing how many?
    one star, two stars
    a function for any count of arguments
lambda:
    What is a lambda?
    How does a function without a name look?
    A one-line anonymous function
    short nameless function
    A tiny function without def
    How do I write a function as an expression?
    nameless one-line functions
    lambda x
generator:
    How does yield work?
    I want a function that gives values one after another
    What is a generator?
    values produced lazily by a function
    Values should come when they are needed
    How do I hand out values one by one from a function?
    lazily produced values
    yield in a function
decorator:
    How do decorators work?
    What does the @ above a function do?
    I want to wrap behaviour around a function
    adding behaviour to a function with @
    Before each call of my function something more should happen
    How do I put something around a function?
    @ in front of a function
    extra behaviour for functions
cache:
    My function is slow and is called with the same arguments again
    How are results kept in memory?
    What avoids computing the same thing twice?
    repeated calls should be fast
    The same call again should not compute again
    How do I make repeated calls quick?
    slow function, remember its answers
    keep answers in memory
context-manager:
    How does my own with statement work?
    I want something to happen before and after a block
    What is a context manager?
    my own thing for with
    Something at the begin and the end of a with
    How do I make a thing that works with with?
    my own with
    contextlib
try-except:
    My program crashes with an error, what can I do?
    How do I go on after an error?
    What catches errors?
    deal with a ZeroDivisionError
    Dividing by zero stops my program
    How do I go on when something fails?
    errors should not end the program
    an error happens, then what
raise:
    My function gets an invalid argument, how does it complain?
    How does a function tell its caller about a bad value?
    What raises an error?
    report a wrong argument with ValueError
    A negative age is wrong and my function should say so
    How do I complain about a bad argument?
    invalid argument, tell the caller
    ValueError from a function
custom-exception:
    I want my own error type
    How do I get an exception class of my own?
    What does a custom exception look like?
    a new kind of error
    ConfigError should be an error of mine
    How do I have my own kind of exception?
    error type of my own
    class for my errors
for-loop:
    How do I repeat code five times?
    What counts from 1 to 5?
    How does a for loop look?
    some code for every number up to 5
    1, 2, 3, 4, 5 with a loop
    How do I do the same for every number?
    repeat code for some numbers
    for and range
while-loop:
    How do I keep going while something is true?
    What does while look like?
    My code should run until a condition is no longer true
    countdown loop
    As long as a count is above zero
    How do I repeat until something changes?
    loop that goes on while something holds
    keep going under a condition
if-else:
    How does a program decide?
    What does if elif else look like?
    Different code for different cases
    branch depending on a value
    Positive, negative or zero
    How do I do one thing or another?
    several cases, one is chosen
    branches
ternary:
    An if else on a single line
    How do I fit if and else into one expression?
    What is the conditional expression?
    inline if
    adult or minor, in one expression
    How do I choose between two values on one line?
    if else that fits in one line
    short if else
factorial:
    What is n! in code?
    How does a function call itself?
    A recursive function, please
    5! with recursion
    5 * 4 * 3 * 2 * 1
    How do I let a function call itself?
    n!
    product of all numbers up to n
fibonacci:
    What are the first ten Fibonacci numbers?
    How is the Fibonacci sequence made?
    Fibonacci, please
    0 1 1 2 3 5 8 in code
    Each number is the sum of the two before it
    How do I produce Fibonacci numbers?
    ten Fibonacci numbers
    fibonacci in a list
prime:
    Is 17 prime?
    How do I decide if a number is prime?
    Code for prime numbers
    Does a number have divisors?
    Does a number have no divisors?
    How do I test numbers for being prime?
    prime or not
    decide primality
random-number:
    I need a random number
    How do I throw a die?
    What gives a random integer?
    simulate dice
    Any number from 1 to 6
    How do I make a die?
    a number by chance
    dice throw
round:
    My float has too many digits, I want it rounded
    How does round work?
    What brings a float to the nearest value?
    closest number with one decimal
    2.7 instead of 2.718
    How do I get to the nearest value?
    fewer digits of a float by rounding
    nearest whole number
square-root:
    What is the root of 16?
    How does sqrt work?
    Which math function takes the root?
    square root, please
    Which number times itself is 16?
    How do I take the root with math?
    root of a number
    math module root
binary:
    What are the bits of a number?
    How does 10 become 1010?
    An integer as bits
    text of zeros and ones to a number
    The bits of 10 as text
    How do I read a text of bits?
    zeros and ones of an integer
    base 2
permutations:
    In which orders can three letters stand?
    How do I see all orderings?
    Every possible order of some items
    What lists all permutations?
    abc, acb, bac and so on
    How do I get each ordering of letters?
    all orders
    every way to order items
combinations:
    Which pairs can be made of these items?
    How do I get each possible pair?
    All pairs out of some items
    What chooses 2 out of 3 in all ways?
    (1, 2), (1, 3), (2, 3)
    How do I make every pair of items?
    two of three
    possible pairs
deque:
    I want to take items from the front
    How does a queue work?
    What is fast at both ends?
    a structure where the first item comes out first
    First come, first served
    How do I take from the front and add at the back?
    items from the front, quickly
    queue data structure
environment:
    My program should look at an environment variable
    How does os.environ work?
    Where do settings from the environment come from?
    a setting of the environment
    EDITOR is set in my shell, how do I read it?
    How do I look at the environment?
    setting from outside my program
    os.environ
arguments:
    Users should be able to give my script options
    How do I get options from the shell?
    What reads sys.argv for me?
    command line options for my script
    my script should know --count
    How do I let users type options?
    options for a script in the shell
    argparse
logging:
    I want log messages instead of print
    How does logging work?
    My program should record what it does
    What writes a log?
    Not print but a log
    How do I keep a record of what a program does?
    record messages with a level
    info and warning messages
run-command:
    I want to start another program from my script
    How do I read what a command prints?
    What starts external programs?
    output of an external program
    Start a program and read what it says
    How do I call an external program?
    external program and its output
    subprocess
threads:
    Several calls should run at once
    How does a thread pool work?
    My functions should run in threads at the same time
    What runs calls in parallel?
    Work on three calls at once
    How do I let functions run at the same time?
    several calls in threads
    thread pool
asyncio:
    How do coroutines work?
    What starts a coroutine?
    async def, how?
    define a coroutine and start it
    await something
    How do I start a coroutine?
    coroutine, defined and run
    asyncio.run
type-hints:
    Which types do my parameters have, and where do I write that?
    How do I state the type of a parameter?
    What do annotations look like?
    types of parameters and of the result
    text is a str and times an int, how do I say that?
    How do I write which types a function takes?
    int and str after a colon
    types for functions
"""


def _parse(text: str) -> dict[str, tuple[str, ...]]:
    questions: dict[str, tuple[str, ...]] = {}
    for block in re.split(r"\n(?=\S)", text.strip()):
        name, *lines = block.splitlines()
        questions[name.removesuffix(":")] = tuple(line.strip() for line in lines)
    return questions


QUESTIONS = _parse(_TEXT)
