"""The published list of what starchat-nano knows: how-to questions, answers and checks.

`phrases` complete "How do I ...": training wordings are built from them. `held_out` is a whole
question that no training dialogue contains. `check` runs after the answer's code, with its
variables in scope, `out` holding what it printed, and FIXTURES lying in the working directory.
"""

from __future__ import annotations

from dataclasses import dataclass

FIXTURES = {
    "notes.txt": "first line\nsecond line\nthird line\n",
    "people.csv": "name,age\nAda,36\nLinus,54\n",
    "config.json": '{"name": "demo", "version": 3}\n',
}


@dataclass(frozen=True)
class Topic:
    """One how-to: the ways to ask for it, its answer, and a check of the answer's code."""

    name: str
    phrases: tuple[str, ...]
    held_out: str
    lead: str
    code: str
    check: str
    tail: str = ""

    @property
    def reply(self) -> str:
        """Return the answer as the model is to write it: a sentence, a code block, a closing."""
        block = f"{self.lead}\n\n```python\n{self.code}\n```"
        return f"{block}\n\n{self.tail}" if self.tail else block

    @property
    def published(self) -> tuple[str, str, str]:
        """Return the three published wordings; the third one is never trained on."""
        return (
            f"How do I {self.phrases[0]} in Python?",
            f"Show me how to {self.phrases[1]}.",
            self.held_out,
        )


def _topic(
    name: str, phrases: str, held_out: str, lead: str, code: str, check: str, tail: str = ""
) -> Topic:
    parts = tuple(phrase.strip() for phrase in phrases.split("|"))
    return Topic(name, parts, held_out, lead, code.strip("\n"), check.strip("\n"), tail)


TOPICS: tuple[Topic, ...] = (
    # Lists
    _topic(
        "sort-list",
        "sort a list | sort a list of numbers | order a list | put the items of a list in order"
        " | arrange the elements of a list in ascending order | sort an array | use list sort",
        "What's the simplest way to get a list into sorted order?",
        "You can sort a list in Python by using the sort() method. Here's an example:",
        """
numbers = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]
numbers.sort()
print(numbers)
""",
        "assert numbers == [1, 1, 2, 3, 3, 4, 5, 5, 5, 6, 9] and '[1, 1, 2' in out",
        "This will sort the list in place and print the sorted list.",
    ),
    _topic(
        "sort-descending",
        "sort a list in descending order | sort a list from largest to smallest"
        " | sort numbers in reverse order | order a list from high to low"
        " | arrange a list with the biggest first | sort a list backwards | sort descending",
        "I need my list sorted with the largest number first, how?",
        "Pass reverse=True to sorted() to get the largest items first:",
        """
numbers = [3, 8, 1, 5]
descending = sorted(numbers, reverse=True)
print(descending)
""",
        "assert descending == [8, 5, 3, 1] and '[8, 5, 3, 1]' in out",
    ),
    _topic(
        "reverse-list",
        "reverse a list | turn a list around | flip the order of a list"
        " | get the items of a list in the opposite order | reverse an array | invert a list",
        "What is a quick way to flip a list back to front?",
        "A slice with step -1 gives a reversed copy of a list:",
        """
items = [1, 2, 3, 4]
backwards = items[::-1]
print(backwards)
""",
        "assert backwards == [4, 3, 2, 1] and items == [1, 2, 3, 4]",
        "Use items.reverse() to reverse the list in place.",
    ),
    _topic(
        "remove-duplicates",
        "remove duplicates from a list | get the unique values of a list | deduplicate a list"
        " | drop repeated items from a list | keep only the distinct elements of a list"
        " | delete duplicate values in a list",
        "My list has repeated values, how do I keep each one only once?",
        "dict.fromkeys() keeps the first of each value and the order:",
        """
items = ["a", "b", "a", "c", "b"]
unique = list(dict.fromkeys(items))
print(unique)
""",
        "assert unique == ['a', 'b', 'c']",
    ),
    _topic(
        "append-item",
        "add an item to a list | append an element to a list | put a new value at the end of a list"
        " | append to a list | insert something at the end of a list | push a value onto a list",
        "How can one more element be added to the end of a list?",
        "Use the append() method to add an item to the end of a list:",
        """
fruits = ["apple", "pear"]
fruits.append("plum")
print(fruits)
""",
        "assert fruits == ['apple', 'pear', 'plum']",
    ),
    _topic(
        "remove-item",
        "remove an item from a list | delete an element from a list by value"
        " | drop a value from a list | take an item out of a list | remove an element from a list"
        " | use list remove",
        "How could I take one particular value out of a list?",
        "Use the remove() method, which deletes the first matching item:",
        """
fruits = ["apple", "pear", "plum"]
fruits.remove("pear")
print(fruits)
""",
        "assert fruits == ['apple', 'plum']",
        "It raises ValueError if the item is not in the list.",
    ),
    _topic(
        "filter-list",
        "filter a list | keep only the even numbers of a list | filter a list by a condition"
        " | select the items of a list that match a condition | get only some elements of a list"
        " | filter even numbers",
        "Which way do I pick just the even values out of a list?",
        "Use a list comprehension with a condition:",
        """
numbers = [1, 2, 3, 4, 5, 6]
evens = [n for n in numbers if n % 2 == 0]
print(evens)
""",
        "assert evens == [2, 4, 6]",
    ),
    _topic(
        "map-list",
        "square every number in a list | apply a function to every item of a list"
        " | use a list comprehension | transform each element of a list"
        " | write a list comprehension | map a function over a list",
        "Could you show me a list comprehension that squares each number?",
        "A list comprehension builds a new list from every item:",
        """
numbers = [1, 2, 3, 4]
squares = [n * n for n in numbers]
print(squares)
""",
        "assert squares == [1, 4, 9, 16]",
    ),
    _topic(
        "flatten-list",
        "flatten a list of lists | flatten a nested list | turn a list of lists into one list"
        " | join nested lists into a single flat list | unnest a list | make a nested list flat",
        "I have lists inside a list and want one flat list, what do I write?",
        "Use a list comprehension with two loops:",
        """
nested = [[1, 2], [3], [4, 5]]
flat = [item for row in nested for item in row]
print(flat)
""",
        "assert flat == [1, 2, 3, 4, 5]",
    ),
    _topic(
        "last-item",
        "get the last element of a list | access the final item of a list"
        " | read the last value in a list | use a negative index | find the last item in a list"
        " | get the end of a list",
        "How would you pick out the very last thing in a list?",
        "Index -1 is the last item of a list:",
        """
letters = ["a", "b", "c"]
last = letters[-1]
print(last)
""",
        "assert last == 'c'",
    ),
    _topic(
        "slice-list",
        "get the first three items of a list | slice a list | take a part of a list"
        " | get a sublist | cut a piece out of a list | get the first n elements of a list",
        "What syntax gives me just the first few elements of a list?",
        "A slice takes a part of a list; the end is not included:",
        """
letters = ["a", "b", "c", "d", "e"]
first_three = letters[:3]
print(first_three)
""",
        "assert first_three == ['a', 'b', 'c']",
    ),
    _topic(
        "sum-list",
        "sum a list of numbers | add up all numbers in a list | get the total of a list"
        " | calculate the sum of a list | compute the sum of the values in a list | total a list",
        "How do you total up the numbers that a list holds?",
        "The built-in sum() adds all numbers of a list:",
        """
prices = [4, 10, 6]
total = sum(prices)
print(total)
""",
        "assert total == 20 and '20' in out",
    ),
    _topic(
        "max-min",
        "find the largest number in a list | find the maximum and minimum of a list"
        " | get the biggest value of a list | find the smallest number in a list"
        " | get the max of a list | get the min and max of a list",
        "Which function tells me the highest value in a list?",
        "Use the built-in max() and min() functions:",
        """
numbers = [7, 2, 9, 4]
largest = max(numbers)
smallest = min(numbers)
print(largest, smallest)
""",
        "assert (largest, smallest) == (9, 2)",
    ),
    _topic(
        "average",
        "calculate the average of a list | get the mean of a list of numbers"
        " | compute an average | find the mean value of a list | average some numbers"
        " | calculate the mean and average",
        "How is the mean of several numbers worked out?",
        "Use mean() from the statistics module:",
        """
from statistics import mean

average = mean([2, 4, 9])
print(average)
""",
        "assert average == 5",
    ),
    _topic(
        "count-items",
        "count how often each item occurs in a list | count the occurrences of items in a list"
        " | use a Counter | count the frequency of elements in a list"
        " | count how many times a value appears in a list | get the most common item of a list",
        "I want the frequency of every value in a list, how do I count them?",
        "Counter from the collections module counts every item:",
        """
from collections import Counter

counts = Counter(["red", "blue", "red"])
print(counts["red"])
print(counts.most_common(1))
""",
        "assert counts['red'] == 2 and counts['blue'] == 1",
    ),
    _topic(
        "enumerate",
        "loop over a list with the index | use enumerate"
        " | iterate over a list with index and value | get the index in a for loop"
        " | number the items while looping over a list | loop with a counter over a list",
        "In a loop, how do I know the position of each element as well?",
        "enumerate() gives the index together with each item:",
        """
names = ["Ada", "Linus"]
for index, name in enumerate(names):
    print(index, name)
""",
        "assert '0 Ada' in out and '1 Linus' in out",
    ),
    _topic(
        "zip-lists",
        "loop over two lists at the same time | use zip | iterate over two lists in parallel"
        " | combine two lists into pairs | pair up the elements of two lists | zip two lists",
        "How may I go through two lists together, item by item?",
        "zip() pairs up the items of two lists:",
        """
names = ["Ada", "Linus"]
ages = [36, 54]
for name, age in zip(names, ages):
    print(name, age)
""",
        "assert 'Ada 36' in out and 'Linus 54' in out",
    ),
    _topic(
        "chunk-list",
        "split a list into chunks | divide a list into parts of equal size"
        " | break a list into smaller lists | cut a list into batches of n items"
        " | group a list into chunks | process a list in batches",
        "What's a good way to break one long list into pieces of the same size?",
        "Take slices in steps of the chunk size:",
        """
items = [1, 2, 3, 4, 5]
size = 2
chunks = [items[i:i + size] for i in range(0, len(items), size)]
print(chunks)
""",
        "assert chunks == [[1, 2], [3, 4], [5]]",
    ),
    _topic(
        "find-index",
        "find the index of an item in a list | get the position of an element in a list"
        " | find where a value is in a list | look up the index of a value in a list"
        " | use list index | find the position of an item",
        "How do I learn at which position a value stands in a list?",
        "The index() method returns the position of the first match:",
        """
colors = ["red", "green", "blue"]
position = colors.index("green")
print(position)
""",
        "assert position == 1",
        "It raises ValueError if the item is missing.",
    ),
    _topic(
        "in-list",
        "check if an item is in a list | test whether a list contains a value"
        " | see if an element exists in a list | find out if a value is in a list"
        " | check membership in a list | check if a list contains an item",
        "Is there a way to test that some value exists inside a list?",
        "Use the in operator:",
        """
colors = ["red", "green", "blue"]
found = "green" in colors
print(found)
""",
        "assert found is True",
    ),
    _topic(
        "concatenate-lists",
        "join two lists | concatenate two lists | merge two lists into one"
        " | combine two lists | add one list to another list | put two lists together",
        "How can I make one list out of two lists?",
        "The + operator joins two lists into a new one:",
        """
first = [1, 2]
second = [3, 4]
combined = first + second
print(combined)
""",
        "assert combined == [1, 2, 3, 4]",
    ),
    _topic(
        "copy-list",
        "copy a list | make a copy of a list | clone a list | duplicate a list"
        " | create an independent copy of a list | make a shallow copy of a list",
        "What do I do to clone a list so that the original stays unchanged?",
        "The copy() method makes a new list with the same items:",
        """
original = [1, 2, 3]
clone = original.copy()
clone.append(4)
print(original, clone)
""",
        "assert original == [1, 2, 3] and clone == [1, 2, 3, 4]",
        "Use copy.deepcopy() if the list contains other lists.",
    ),
    _topic(
        "sort-by-key",
        "sort a list of dictionaries by a key | sort a list of dicts"
        " | order dictionaries by a value | sort records by a field"
        " | sort a list of dictionaries by age | use the key argument of sorted",
        "I have dictionaries in a list, how do I order them by one field?",
        "Give sorted() a key function that picks the value:",
        """
people = [{"name": "Ada", "age": 36}, {"name": "Bob", "age": 25}]
by_age = sorted(people, key=lambda person: person["age"])
print(by_age)
""",
        "assert [p['name'] for p in by_age] == ['Bob', 'Ada']",
    ),
    _topic(
        "sort-by-length",
        "sort strings by length | sort a list of words by length | order words from short to long"
        " | sort a list by the length of its strings | arrange strings by their length",
        "How would I arrange words so that the shortest comes first?",
        "Pass key=len to sorted():",
        """
words = ["banana", "fig", "apple"]
by_length = sorted(words, key=len)
print(by_length)
""",
        "assert by_length == ['fig', 'apple', 'banana']",
    ),
    _topic(
        "random-choice",
        "pick a random item from a list | choose a random element of a list"
        " | select a random value from a list | get a random item | use random choice",
        "How do I draw one element of a list by chance?",
        "random.choice() picks one item:",
        """
import random

colors = ["red", "green", "blue"]
color = random.choice(colors)
print(color)
""",
        "assert color in colors",
    ),
    _topic(
        "shuffle",
        "shuffle a list | put a list in random order | randomize the order of a list"
        " | mix up the items of a list | use random shuffle",
        "What can I call to mix a list into a random order?",
        "random.shuffle() mixes a list in place:",
        """
import random

cards = [1, 2, 3, 4, 5]
random.shuffle(cards)
print(cards)
""",
        "assert sorted(cards) == [1, 2, 3, 4, 5]",
    ),
    _topic(
        "any-all",
        "check if all items of a list match a condition | use any and all"
        " | test if any element is true | check whether every number in a list is positive"
        " | check if at least one item matches",
        "How can I verify that every element of a list meets some condition?",
        "all() and any() test a condition over many items:",
        """
numbers = [2, 4, 5]
all_positive = all(n > 0 for n in numbers)
any_odd = any(n % 2 for n in numbers)
print(all_positive, any_odd)
""",
        "assert all_positive is True and any_odd is True",
    ),
    _topic(
        "n-largest",
        "get the three largest numbers of a list | find the top n values of a list"
        " | use heapq | get the n biggest items | find the k largest elements",
        "I only want the top three values of a list, how do I find them?",
        "heapq.nlargest() returns the biggest items in order:",
        """
import heapq

scores = [50, 92, 71, 88]
top = heapq.nlargest(3, scores)
print(top)
""",
        "assert top == [92, 88, 71]",
    ),
    # Strings
    _topic(
        "join-strings",
        "join a list of strings | convert a list of words to a string"
        " | concatenate strings with a separator | combine strings with commas"
        " | use string join | turn a list into a comma separated string",
        "How are many words glued together into one string?",
        "Call join() on the separator:",
        """
words = ["red", "green", "blue"]
line = ", ".join(words)
print(line)
""",
        "assert line == 'red, green, blue'",
    ),
    _topic(
        "split-string",
        "split a string into words | split a string | break a sentence into words"
        " | split text on a comma | turn a string into a list of words | use string split",
        "How do I cut a sentence up into its separate words?",
        "The split() method cuts a string at whitespace:",
        """
sentence = "the quick brown fox"
words = sentence.split()
print(words)
""",
        "assert words == ['the', 'quick', 'brown', 'fox']",
        'Pass a separator such as split(",") to cut elsewhere.',
    ),
    _topic(
        "reverse-string",
        "reverse a string | turn a string around | print a string backwards"
        " | flip the letters of a word | invert a string | get a string in reverse",
        "What would give me a text with its letters backwards?",
        "A slice with step -1 reverses a string:",
        """
text = "python"
reversed_text = text[::-1]
print(reversed_text)
""",
        "assert reversed_text == 'nohtyp'",
    ),
    _topic(
        "upper-case",
        "convert a string to uppercase | change a string to upper case"
        " | make a string lowercase | make all letters capital | capitalize a string"
        " | convert text to lower case",
        "How do I turn every letter of some text into a capital?",
        "Strings have upper() and lower() methods:",
        """
text = "Hello World"
loud = text.upper()
quiet = text.lower()
print(loud, quiet)
""",
        "assert loud == 'HELLO WORLD' and quiet == 'hello world'",
    ),
    _topic(
        "replace-text",
        "replace text in a string | replace a word in a string | substitute a part of a string"
        " | change one word to another in a string | replace a substring | use string replace",
        "How can one word in a string be swapped for a different word?",
        "The replace() method returns a new string:",
        """
text = "I like tea"
changed = text.replace("tea", "coffee")
print(changed)
""",
        "assert changed == 'I like coffee'",
    ),
    _topic(
        "strip",
        "remove whitespace from a string | strip spaces from a string | trim a string"
        " | delete leading and trailing spaces | cut off the spaces around a string"
        " | remove the newline at the end of a string",
        "How do I get rid of the blanks around some text?",
        "The strip() method removes whitespace from both ends:",
        """
text = "  hello \\n"
clean = text.strip()
print(clean)
""",
        "assert clean == 'hello'",
    ),
    _topic(
        "substring",
        "check if a string contains a substring | test whether a word is in a string"
        " | find a substring in a string | see if text contains a word"
        " | search for a substring | check if a string includes another string",
        "How would I know whether a piece of text occurs in a longer string?",
        "Use the in operator on strings:",
        """
text = "the quick brown fox"
found = "quick" in text
print(found)
""",
        "assert found is True",
        'text.find("quick") returns the position, or -1.',
    ),
    _topic(
        "starts-with",
        "check if a string starts with a prefix | test the beginning of a string"
        " | use startswith | check if a string ends with a suffix"
        " | see if a filename ends with an extension | use startswith and endswith",
        "How can I see whether some text begins with certain letters?",
        "Use startswith() and endswith():",
        """
name = "report.txt"
is_report = name.startswith("report")
is_text = name.endswith(".txt")
print(is_report, is_text)
""",
        "assert is_report is True and is_text is True",
    ),
    _topic(
        "count-words",
        "count the words in a string | get the number of words in a text"
        " | find out how many words a sentence has | count words | do a word count",
        "How many words does a sentence have, and how do I compute that?",
        "Split the text and take the length:",
        """
text = "one two three four"
word_count = len(text.split())
print(word_count)
""",
        "assert word_count == 4",
    ),
    _topic(
        "f-string",
        "format a string | use an f-string | put a variable into a string"
        " | insert variables in a string | print a variable inside text"
        " | do string interpolation",
        "What is the modern way of placing values inside a text?",
        "Use an f-string: put f before the quotes and the value in braces.",
        """
name = "Ada"
age = 36
message = f"{name} is {age} years old"
print(message)
""",
        "assert message == 'Ada is 36 years old'",
    ),
    _topic(
        "two-decimals",
        "print a number with two decimals | format a float to two decimal places"
        " | show only two digits after the decimal point | format a price with 2 decimals"
        " | limit the number of decimals of a float",
        "How do I display a float with exactly two digits after the point?",
        "Use the format .2f in an f-string:",
        """
price = 3.14159
text = f"{price:.2f}"
print(text)
""",
        "assert text == '3.14'",
    ),
    _topic(
        "zero-pad",
        "pad a number with zeros | add leading zeros to a number"
        " | format a number with leading zeros | fill a string with zeros on the left | use zfill",
        "How do I write 7 as 007, with zeros in front?",
        "Use a width with a leading zero in an f-string:",
        """
number = 7
padded = f"{number:03d}"
print(padded)
""",
        "assert padded == '007'",
    ),
    _topic(
        "palindrome",
        "check if a word is a palindrome | test for a palindrome"
        " | see if a string reads the same backwards | write a palindrome function"
        " | detect a palindrome",
        "Write me a function telling whether a word is the same in both directions.",
        "Compare the text with its reverse:",
        """
def is_palindrome(text):
    text = text.lower()
    return text == text[::-1]

print(is_palindrome("Level"))
""",
        "assert is_palindrome('Level') and not is_palindrome('python')",
    ),
    _topic(
        "str-to-int",
        "convert a string to an integer | convert a string to a number | parse an integer"
        " | turn text into a number | change a string into an int | cast a string to int",
        "I've got digits in a string and need a real number, what now?",
        "Call int() on the string, or float() for decimals:",
        """
text = "42"
number = int(text)
print(number + 1)
""",
        "assert number == 42 and '43' in out",
    ),
    _topic(
        "int-to-str",
        "convert a number to a string | convert an integer to a string"
        " | turn a number into text | cast an int to str | change an int to a string",
        "What makes a string from an integer value?",
        "Call str() on the number:",
        """
number = 42
text = str(number)
print("The answer is " + text)
""",
        "assert text == '42' and 'The answer is 42' in out",
    ),
    # Dictionaries, sets, tuples
    _topic(
        "create-dict",
        "create a dictionary | make a dict | define a dictionary with keys and values"
        " | store key value pairs | add a key to a dictionary | build a dictionary",
        "How do I set up a mapping of keys to values?",
        "Write keys and values in braces; assign to a key to add one:",
        """
ages = {"Ada": 36, "Linus": 54}
ages["Grace"] = 85
print(ages["Grace"])
""",
        "assert ages == {'Ada': 36, 'Linus': 54, 'Grace': 85}",
    ),
    _topic(
        "loop-dict",
        "loop over a dictionary | iterate over the keys and values of a dict"
        " | go through a dictionary | use dict items | print all keys and values of a dictionary",
        "How can I walk through all the entries of a dictionary?",
        "The items() method gives each key with its value:",
        """
ages = {"Ada": 36, "Linus": 54}
for name, age in ages.items():
    print(name, age)
""",
        "assert 'Ada 36' in out and 'Linus 54' in out",
    ),
    _topic(
        "dict-get",
        "get a value from a dictionary with a default | use dict get"
        " | read a dictionary key that may be missing | avoid a KeyError"
        " | get a default value for a missing key",
        "What do I write so that an absent dictionary key yields a default value?",
        "The get() method returns a default for a missing key:",
        """
ages = {"Ada": 36}
age = ages.get("Bob", 0)
print(age)
""",
        "assert age == 0",
    ),
    _topic(
        "merge-dicts",
        "merge two dictionaries | combine two dicts | join two dictionaries into one"
        " | update a dictionary with another | put two dictionaries together",
        "How do I make a single dictionary from two dictionaries?",
        "The | operator merges two dictionaries; the second one wins:",
        """
defaults = {"color": "red", "size": 1}
custom = {"size": 5}
merged = defaults | custom
print(merged)
""",
        "assert merged == {'color': 'red', 'size': 5}",
    ),
    _topic(
        "delete-key",
        "remove a key from a dictionary | delete a key from a dict"
        " | drop an entry from a dictionary | pop a key from a dictionary"
        " | delete a dictionary entry",
        "How can an entry of a dictionary be taken away again?",
        "The pop() method removes a key and returns its value:",
        """
ages = {"Ada": 36, "Bob": 25}
removed = ages.pop("Bob")
print(removed, ages)
""",
        "assert removed == 25 and ages == {'Ada': 36}",
    ),
    _topic(
        "sort-dict",
        "sort a dictionary by value | order a dict by its values"
        " | sort the entries of a dictionary | rank a dictionary by value"
        " | arrange a dictionary by its values",
        "How would I put the entries of a dictionary in order of their values?",
        "Sort the items by their second part and build a new dict:",
        """
scores = {"Ada": 90, "Bob": 70, "Eve": 80}
ranked = dict(sorted(scores.items(), key=lambda item: item[1]))
print(ranked)
""",
        "assert list(ranked) == ['Bob', 'Eve', 'Ada']",
    ),
    _topic(
        "invert-dict",
        "invert a dictionary | swap the keys and values of a dictionary"
        " | reverse a dict so that values become keys | exchange keys and values"
        " | flip a dictionary",
        "Can I exchange the roles of keys and values in a dict?",
        "Use a dictionary comprehension that swaps the two:",
        """
codes = {"one": 1, "two": 2}
inverted = {value: key for key, value in codes.items()}
print(inverted)
""",
        "assert inverted == {1: 'one', 2: 'two'}",
    ),
    _topic(
        "key-exists",
        "check if a key exists in a dictionary | test whether a dict has a key"
        " | see if a key is in a dictionary | find out if a dictionary contains a key"
        " | check for a dictionary key",
        "How do I tell if some key is already present in a dict?",
        "Use the in operator on the dictionary:",
        """
ages = {"Ada": 36}
has_ada = "Ada" in ages
has_bob = "Bob" in ages
print(has_ada, has_bob)
""",
        "assert has_ada is True and has_bob is False",
    ),
    _topic(
        "dict-comprehension",
        "use a dictionary comprehension | write a dict comprehension"
        " | build a dictionary from a list | make a dictionary in one line"
        " | create a dict with a comprehension",
        "What does a comprehension that produces a dictionary look like?",
        "A dict comprehension has a key and a value before the for:",
        """
words = ["fig", "apple"]
lengths = {word: len(word) for word in words}
print(lengths)
""",
        "assert lengths == {'fig': 3, 'apple': 5}",
    ),
    _topic(
        "group-items",
        "group items by a key | use defaultdict | group words by their first letter"
        " | collect items into groups | build a dictionary of lists",
        "How do I gather words into groups that share a first letter?",
        "defaultdict(list) starts every group with an empty list:",
        """
from collections import defaultdict

groups = defaultdict(list)
for word in ["apple", "avocado", "banana"]:
    groups[word[0]].append(word)
print(dict(groups))
""",
        "assert groups == {'a': ['apple', 'avocado'], 'b': ['banana']}",
    ),
    _topic(
        "set-operations",
        "find the common elements of two lists | get the intersection of two sets"
        " | use sets | find items that are in both lists | compute a set intersection and union",
        "Which values do two lists share, how do I find them?",
        "Sets have & for common items and | for all items:",
        """
a = {1, 2, 3}
b = {2, 3, 4}
common = a & b
union = a | b
print(common, union)
""",
        "assert common == {2, 3} and union == {1, 2, 3, 4}",
    ),
    _topic(
        "unpack-tuple",
        "unpack a tuple | assign a tuple to several variables"
        " | use tuple unpacking | split a tuple into variables | unpack a list into variables",
        "How do I assign the parts of a tuple to separate names?",
        "Write as many names on the left as the tuple has items:",
        """
point = (3, 4)
x, y = point
print(x, y)
""",
        "assert (x, y) == (3, 4)",
    ),
    _topic(
        "swap",
        "swap two variables | exchange the values of two variables | switch two variables"
        " | swap a and b | swap values without a temporary variable",
        "How might I interchange the contents of two variables?",
        "Assign both at once, no temporary variable is needed:",
        """
a = 1
b = 2
a, b = b, a
print(a, b)
""",
        "assert (a, b) == (2, 1)",
    ),
    # Files and data formats
    _topic(
        "read-file",
        "read a file | read a text file | open a file and read its contents"
        " | load the contents of a file into a string | get the text of a file",
        "How do I get everything that a text file contains?",
        "Open the file in a with block and call read():",
        """
with open("notes.txt", encoding="utf-8") as file:
    text = file.read()
print(text)
""",
        "assert text.startswith('first line') and 'third line' in out",
    ),
    _topic(
        "write-file",
        "write to a file | write text to a file | save a string to a file"
        " | create a text file | store text in a file",
        "What's needed to save some text on disk?",
        'Open the file with mode "w" and call write():',
        """
with open("output.txt", "w", encoding="utf-8") as file:
    file.write("Hello, file!")
""",
        "assert open('output.txt').read() == 'Hello, file!'",
        'Mode "w" replaces the file if it already exists.',
    ),
    _topic(
        "append-file",
        "append to a file | add text to the end of a file | append a line to a file"
        " | write to a file without overwriting it | add a line to an existing file",
        "How can I put another line behind the end of an existing file?",
        'Open the file with mode "a", which keeps what is there:',
        """
with open("notes.txt", "a", encoding="utf-8") as file:
    file.write("one more line\\n")
""",
        "text = open('notes.txt').read()\n"
        "assert text.startswith('first line') and text.endswith('one more line\\n')",
    ),
    _topic(
        "read-lines",
        "read a file line by line | loop over the lines of a file"
        " | read the lines of a file into a list | iterate over lines in a file"
        " | process a file one line at a time",
        "How do I go over a text file one line after the other?",
        "A file is an iterator over its lines:",
        """
with open("notes.txt", encoding="utf-8") as file:
    for line in file:
        print(line.rstrip())
""",
        "assert out.splitlines() == ['first line', 'second line', 'third line']",
    ),
    _topic(
        "file-exists",
        "check if a file exists | test whether a file exists | see if a path exists"
        " | find out if a file is there | check whether a file is present",
        "Before opening it, how do I make sure that a file is really there?",
        "Use the exists() method of a Path:",
        """
from pathlib import Path

exists = Path("notes.txt").exists()
print(exists)
""",
        "assert exists is True",
    ),
    _topic(
        "list-files",
        "list the files in a directory | get all files in a folder | use glob"
        " | find all text files in a folder | list a directory",
        "How do I see which text files a folder holds?",
        "Path.glob() finds the files that match a pattern:",
        """
from pathlib import Path

names = sorted(path.name for path in Path(".").glob("*.txt"))
print(names)
""",
        "assert 'notes.txt' in names",
    ),
    _topic(
        "make-directory",
        "create a directory | make a new folder | create a folder if it does not exist"
        " | make a directory | use mkdir",
        "How can a script make a folder for itself?",
        "Use mkdir() of a Path; exist_ok allows an existing folder:",
        """
from pathlib import Path

folder = Path("data/results")
folder.mkdir(parents=True, exist_ok=True)
print(folder.is_dir())
""",
        "assert folder.is_dir()",
    ),
    _topic(
        "delete-file",
        "delete a file | remove a file | erase a file from disk | unlink a file"
        " | delete a file if it exists",
        "What call will erase a file that I no longer need?",
        "Use unlink() of a Path:",
        """
from pathlib import Path

path = Path("notes.txt")
path.unlink(missing_ok=True)
print(path.exists())
""",
        "assert not path.exists()",
    ),
    _topic(
        "path-parts",
        "get the file extension of a path | get the filename from a path"
        " | split a path into name and extension | get the name of a file without its extension"
        " | use pathlib",
        "How do I find out the extension that a file name has?",
        "A Path knows its name, stem and suffix:",
        """
from pathlib import Path

path = Path("docs/report.pdf")
print(path.name, path.stem, path.suffix)
""",
        "assert out.split() == ['report.pdf', 'report', '.pdf']",
    ),
    _topic(
        "read-json",
        "read a json file | load a json file | open a json file"
        " | get data from a json file | read json from disk",
        "How do I bring the data of a JSON file into my program?",
        "Open the file and pass it to json.load():",
        """
import json

with open("config.json", encoding="utf-8") as file:
    config = json.load(file)
print(config)
""",
        "assert config == {'name': 'demo', 'version': 3}",
    ),
    _topic(
        "write-json",
        "write json to a file | save a dictionary as json | write a json file"
        " | save data to a json file | dump a dict to a json file",
        "How should I store a dictionary on disk in JSON format?",
        "json.dump() writes data to an open file:",
        """
import json

data = {"name": "Ada", "age": 36}
with open("data.json", "w", encoding="utf-8") as file:
    json.dump(data, file, indent=2)
""",
        "import json\nassert json.load(open('data.json')) == {'name': 'Ada', 'age': 36}",
    ),
    _topic(
        "parse-json",
        "parse a json string | convert a json string to a dictionary | decode json text"
        " | turn json text into a dict | use json loads",
        "I received JSON as a string, how do I make a dict of it?",
        "json.loads() turns JSON text into Python data:",
        """
import json

text = '{"name": "Ada", "age": 36}'
data = json.loads(text)
print(data["name"])
""",
        "assert data == {'name': 'Ada', 'age': 36}",
    ),
    _topic(
        "read-csv",
        "read a csv file | load a csv file | parse a csv file"
        " | open a csv file and read its rows | use csv reader",
        "How do I go through the rows of a CSV?",
        "csv.DictReader gives every row as a dictionary:",
        """
import csv

with open("people.csv", newline="", encoding="utf-8") as file:
    rows = list(csv.DictReader(file))
print(rows[0]["name"])
""",
        "assert [row['name'] for row in rows] == ['Ada', 'Linus']",
    ),
    _topic(
        "write-csv",
        "write a csv file | save rows to a csv file | create a csv file"
        " | export data to csv | use csv writer",
        "How can table rows be exported as CSV?",
        "csv.writer() writes rows to an open file:",
        """
import csv

rows = [["name", "age"], ["Ada", 36]]
with open("output.csv", "w", newline="", encoding="utf-8") as file:
    csv.writer(file).writerows(rows)
""",
        "assert open('output.csv').read().split() == ['name,age', 'Ada,36']",
    ),
    # Dates and time
    _topic(
        "current-date",
        "get the current date | get today's date | find out the date and time now"
        " | get the current time | print the current date and time",
        "How does a program know what day it is today?",
        "datetime.now() returns the current date and time:",
        """
from datetime import datetime

now = datetime.now()
print(now.date())
""",
        "import datetime as d\nassert abs(d.datetime.now() - now) < d.timedelta(minutes=9)",
    ),
    _topic(
        "format-date",
        "format a date | convert a date to a string | print a date as day month year"
        " | use strftime | show a date in a given format",
        "How do I print a date the way I like, day first?",
        "strftime() turns a date into text:",
        """
from datetime import date

day = date(2024, 5, 17)
text = day.strftime("%d.%m.%Y")
print(text)
""",
        "assert text == '17.05.2024'",
    ),
    _topic(
        "parse-date",
        "parse a date from a string | convert a string to a date"
        " | turn text into a datetime | use strptime | read a date from text",
        "Given a string such as 2024-05-17, how do I obtain a datetime?",
        "datetime.strptime() reads a date with a given format:",
        """
from datetime import datetime

day = datetime.strptime("2024-05-17", "%Y-%m-%d")
print(day.year, day.month, day.day)
""",
        "assert (day.year, day.month, day.day) == (2024, 5, 17)",
    ),
    _topic(
        "add-days",
        "add days to a date | calculate a date in the future | use timedelta"
        " | get the date one week from a day | subtract days from a date",
        "What is the date ten days later, how do I compute it?",
        "Add a timedelta to a date:",
        """
from datetime import date, timedelta

start = date(2024, 5, 25)
later = start + timedelta(days=10)
print(later)
""",
        "assert later.isoformat() == '2024-06-04'",
    ),
    _topic(
        "date-difference",
        "calculate the number of days between two dates | get the difference between two dates"
        " | subtract two dates | find out how many days are between two dates"
        " | compute days between dates",
        "How many days lie between one date and another?",
        "Subtract two dates and read the days:",
        """
from datetime import date

difference = date(2024, 12, 25) - date(2024, 12, 1)
print(difference.days)
""",
        "assert difference.days == 24",
    ),
    _topic(
        "measure-time",
        "measure how long code takes | time a piece of code | measure the execution time"
        " | benchmark a function | use perf_counter",
        "How do I see how many seconds my code runs?",
        "Take time.perf_counter() before and after:",
        """
import time

start = time.perf_counter()
total = sum(range(100000))
elapsed = time.perf_counter() - start
print(f"{elapsed:.4f} seconds")
""",
        "assert elapsed >= 0 and 'seconds' in out",
    ),
    _topic(
        "sleep",
        "wait for a second | pause a program | sleep for some time"
        " | make a program wait | add a delay | use time sleep",
        "What makes my script stop for a moment before it goes on?",
        "time.sleep() pauses for a number of seconds:",
        """
import time

print("waiting")
time.sleep(0.1)
print("done")
""",
        "assert out.split() == ['waiting', 'done']",
    ),
    # Regular expressions
    _topic(
        "find-numbers",
        "find all numbers in a string | extract the numbers from a text"
        " | use a regular expression | get the digits out of a string | use re findall",
        "How do I pull every number out of some text?",
        "re.findall() returns all matches of a pattern:",
        """
import re

text = "3 apples and 12 pears"
numbers = re.findall(r"\\d+", text)
print(numbers)
""",
        "assert numbers == ['3', '12']",
    ),
    _topic(
        "regex-replace",
        "replace text with a regular expression | use re sub"
        " | replace a pattern in a string | do a regex replace"
        " | substitute all matches of a regex",
        "How would I substitute whatever a regex pattern matches?",
        "re.sub() replaces every match of a pattern:",
        """
import re

text = "call 555 or 777"
hidden = re.sub(r"\\d+", "#", text)
print(hidden)
""",
        "assert hidden == 'call # or #'",
    ),
    _topic(
        "validate-email",
        "validate an email address | check if a string is an email address"
        " | test an email with a regex | match an email address | verify an email",
        "How can I tell that somebody typed a plausible email address?",
        "A simple pattern with re.fullmatch() is enough for most uses:",
        """
import re

def is_email(text):
    return re.fullmatch(r"[\\w.+-]+@[\\w-]+\\.[\\w.]+", text) is not None

print(is_email("ada@example.com"))
""",
        "assert is_email('ada@example.com') and not is_email('nobody')",
    ),
    # Classes
    _topic(
        "class",
        "create a class | define a class | write a class with a method"
        " | make an object | write a class with a constructor",
        "What does a small class with an initializer and one method look like?",
        "Define __init__ for the data and methods for what it does:",
        """
class Dog:
    def __init__(self, name):
        self.name = name

    def speak(self):
        return f"{self.name} says woof"

print(Dog("Rex").speak())
""",
        "assert Dog('Rex').speak() == 'Rex says woof'",
    ),
    _topic(
        "inheritance",
        "inherit from a class | use inheritance | make a subclass"
        " | extend a class | override a method of a parent class",
        "How is a child class derived from a base class?",
        "Name the parent class in parentheses:",
        """
class Animal:
    def speak(self):
        return "..."

class Cat(Animal):
    def speak(self):
        return "meow"

print(Cat().speak())
""",
        "assert issubclass(Cat, Animal) and Cat().speak() == 'meow'",
    ),
    _topic(
        "dataclass",
        "create a dataclass | use dataclasses | make a class that only holds data"
        " | write a data class | use the dataclass decorator",
        "How do I declare a class of plain fields without writing __init__?",
        "The dataclass decorator writes __init__ and __repr__ for you:",
        """
from dataclasses import dataclass

@dataclass
class Point:
    x: int
    y: int

print(Point(1, 2))
""",
        "assert Point(1, 2) == Point(1, 2) and 'Point(x=1, y=2)' in out",
    ),
    _topic(
        "property",
        "use a property | make a computed attribute | write a getter"
        " | use the property decorator | define a read-only attribute",
        "How can a method be read like an attribute?",
        "The property decorator turns a method into an attribute:",
        """
class Circle:
    def __init__(self, radius):
        self.radius = radius

    @property
    def diameter(self):
        return self.radius * 2

print(Circle(3).diameter)
""",
        "assert Circle(3).diameter == 6",
    ),
    _topic(
        "enum",
        "create an enum | use enumerations | define named constants | make an enumeration"
        " | write an Enum class",
        "What should I write for a fixed set of named constants?",
        "Subclass Enum from the enum module:",
        """
from enum import Enum

class Color(Enum):
    RED = 1
    GREEN = 2

print(Color.RED.name, Color.RED.value)
""",
        "assert Color.RED.value == 1 and Color(2) is Color.GREEN",
    ),
    # Functions
    _topic(
        "function",
        "define a function | write a function | create a function with parameters"
        " | return a value from a function | make a function",
        "What is the syntax of a function that takes two numbers and returns a result?",
        "Use def, the parameters in parentheses, and return:",
        """
def add(a, b):
    return a + b

print(add(2, 3))
""",
        "assert add(2, 3) == 5",
    ),
    _topic(
        "default-argument",
        "give a parameter a default value | use default arguments"
        " | make an optional argument | define a function with a default parameter"
        " | set a default argument",
        "How do I let callers leave out one parameter of a function?",
        "Write the default after an equals sign:",
        """
def greet(name, greeting="Hello"):
    return f"{greeting}, {name}!"

print(greet("Ada"))
""",
        "assert greet('Ada') == 'Hello, Ada!' and greet('Ada', 'Hi') == 'Hi, Ada!'",
    ),
    _topic(
        "args-kwargs",
        "use *args and **kwargs | accept any number of arguments"
        " | write a function with a variable number of arguments | use star args"
        " | pass keyword arguments to a function | use args and kwargs",
        "How can a function take however many arguments the caller gives?",
        "*args collects positional and **kwargs keyword arguments:",
        """
def describe(*args, **kwargs):
    return len(args), sorted(kwargs)

print(describe(1, 2, color="red"))
""",
        "assert describe(1, 2, color='red') == (2, ['color'])",
    ),
    _topic(
        "lambda",
        "write a lambda function | use lambda | create an anonymous function"
        " | define a small function in one line | make a lambda",
        "What do anonymous one-line functions look like?",
        "A lambda is a small function without a name:",
        """
double = lambda x: x * 2
print(double(21))
""",
        "assert double(21) == 42",
    ),
    _topic(
        "generator",
        "write a generator | use yield | create a generator function"
        " | make an iterator with yield | generate values lazily",
        "How do I produce values lazily, one after another, from a function?",
        "A function with yield is a generator:",
        """
def count_up(limit):
    number = 1
    while number <= limit:
        yield number
        number += 1

print(list(count_up(3)))
""",
        "assert list(count_up(3)) == [1, 2, 3]",
    ),
    _topic(
        "decorator",
        "write a decorator | create a function decorator | use decorators"
        " | wrap a function with a decorator | make my own decorator",
        "How do I wrap extra behaviour around a function with the @ syntax?",
        "A decorator takes a function and returns a new one:",
        """
import functools

def shout(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function(*args).upper()
    return wrapper

@shout
def greet(name):
    return f"hello {name}"

print(greet("ada"))
""",
        "assert greet('ada') == 'HELLO ADA' and greet.__name__ == 'greet'",
    ),
    _topic(
        "cache",
        "cache the results of a function | use lru_cache | memoize a function"
        " | remember function results | speed up a function with a cache",
        "How can repeated calls of a slow function be answered from memory?",
        "The lru_cache decorator remembers results:",
        """
from functools import lru_cache

@lru_cache(maxsize=None)
def slow_square(n):
    return n * n

print(slow_square(12))
""",
        "assert slow_square(12) == 144 and hasattr(slow_square, 'cache_info')",
    ),
    _topic(
        "context-manager",
        "write a context manager | use the with statement with my own class"
        " | create a context manager with contextlib | make a with block"
        " | use the contextmanager decorator",
        "How do I build something of my own for a with statement?",
        "Use contextmanager: code before yield enters, code after it leaves.",
        """
from contextlib import contextmanager

@contextmanager
def section(name):
    print("begin", name)
    yield
    print("end", name)

with section("test"):
    print("inside")
""",
        "assert out.split() == ['begin', 'test', 'inside', 'end', 'test']",
    ),
    # Errors
    _topic(
        "try-except",
        "catch an exception | handle an error | use try and except"
        " | handle exceptions | stop a program from crashing on an error",
        "How do I deal with errors so that my program goes on?",
        "Put the risky code in try and the handling in except:",
        """
try:
    result = 1 / 0
except ZeroDivisionError as error:
    result = None
    print("Error:", error)
""",
        "assert result is None and 'Error: division by zero' in out",
    ),
    _topic(
        "raise",
        "raise an exception | throw an error | raise a ValueError"
        " | signal an error in a function | throw an exception",
        "How does a function report an invalid argument to its caller?",
        "Use raise with an exception and a clear message:",
        """
def set_age(age):
    if age < 0:
        raise ValueError("age must not be negative")
    return age

print(set_age(5))
""",
        "assert set_age(5) == 5\ntry:\n    set_age(-1)\n    raise AssertionError\n"
        "except ValueError as error:\n    assert 'negative' in str(error)",
    ),
    _topic(
        "custom-exception",
        "create a custom exception | define my own exception class"
        " | make a new exception type | write a custom error class | subclass Exception",
        "What do I write to have an error type of my own?",
        "Subclass Exception:",
        """
class ConfigError(Exception):
    pass

try:
    raise ConfigError("no config file")
except ConfigError as error:
    message = str(error)
print(message)
""",
        "assert issubclass(ConfigError, Exception) and message == 'no config file'",
    ),
    # Control flow and numbers
    _topic(
        "for-loop",
        "write a for loop | loop over a range of numbers | repeat something ten times"
        " | use range | count from 1 to 5 in a loop | print the numbers from 1 to 5",
        "How can I repeat some code for each number from 1 up to 5?",
        "Use for with range(); the end is not included:",
        """
for number in range(1, 6):
    print(number)
""",
        "assert out.split() == ['1', '2', '3', '4', '5']",
    ),
    _topic(
        "while-loop",
        "write a while loop | use while | loop until a condition is false"
        " | repeat code while a condition is true | make a countdown with while",
        "How do I keep going as long as a condition remains true?",
        "A while loop runs as long as its condition is true:",
        """
count = 3
while count > 0:
    print(count)
    count -= 1
""",
        "assert out.split() == ['3', '2', '1'] and count == 0",
    ),
    _topic(
        "if-else",
        "write an if statement | use if, elif and else | make a decision with if else"
        " | compare values with if | use conditions",
        "How do I branch between several cases depending on a value?",
        "Use if, elif and else:",
        """
number = 7
if number > 0:
    sign = "positive"
elif number < 0:
    sign = "negative"
else:
    sign = "zero"
print(sign)
""",
        "assert sign == 'positive'",
    ),
    _topic(
        "ternary",
        "write if else in one line | use a conditional expression"
        " | use the ternary operator | write a one line if | choose a value with inline if else",
        "How does an if with an else fit on a single line?",
        "A conditional expression chooses between two values:",
        """
age = 20
status = "adult" if age >= 18 else "minor"
print(status)
""",
        "assert status == 'adult'",
    ),
    _topic(
        "factorial",
        "calculate a factorial | write a recursive function | use recursion"
        " | compute the factorial of a number | write a recursive factorial",
        "How do I compute n! with a function that calls itself?",
        "A recursive function calls itself with a smaller number:",
        """
def factorial(n):
    if n <= 1:
        return 1
    return n * factorial(n - 1)

print(factorial(5))
""",
        "assert factorial(5) == 120 and factorial(0) == 1",
    ),
    _topic(
        "fibonacci",
        "generate the fibonacci sequence | compute fibonacci numbers"
        " | print the first fibonacci numbers | write a fibonacci function"
        " | calculate the fibonacci series",
        "How can I produce the first ten Fibonacci numbers?",
        "Keep the last two numbers and add them:",
        """
def fibonacci(n):
    numbers = []
    a, b = 0, 1
    for _ in range(n):
        numbers.append(a)
        a, b = b, a + b
    return numbers

print(fibonacci(10))
""",
        "assert fibonacci(10) == [0, 1, 1, 2, 3, 5, 8, 13, 21, 34]",
    ),
    _topic(
        "prime",
        "check if a number is prime | test for a prime number"
        " | write a prime number function | find out if a number is a prime | detect primes",
        "Write me code that decides whether some number is prime.",
        "Try all divisors up to the square root:",
        """
def is_prime(n):
    if n < 2:
        return False
    return all(n % d for d in range(2, int(n ** 0.5) + 1))

print(is_prime(17))
""",
        "assert [n for n in range(20) if is_prime(n)] == [2, 3, 5, 7, 11, 13, 17, 19]",
    ),
    _topic(
        "random-number",
        "generate a random number | get a random integer | create a random number between 1 and 10"
        " | use randint | roll a die | produce random numbers",
        "How might I simulate throwing a die?",
        "random.randint() includes both ends:",
        """
import random

roll = random.randint(1, 6)
print(roll)
""",
        "assert roll in range(1, 7)",
    ),
    _topic(
        "round",
        "round a number | round a float | round to the nearest integer"
        " | round a number to two digits | round down and round up",
        "How do I bring 2.718 to the closest value with one decimal?",
        "The built-in round() takes the number of digits:",
        """
value = round(2.718, 1)
whole = round(2.718)
print(value, whole)
""",
        "assert value == 2.7 and whole == 3",
    ),
    _topic(
        "square-root",
        "calculate a square root | compute the square root of a number | use math sqrt"
        " | take the root of a number | find a square root",
        "What function of the math module gives me the root of 16?",
        "Use sqrt() from the math module:",
        """
import math

root = math.sqrt(16)
print(root)
""",
        "assert root == 4.0",
    ),
    _topic(
        "binary",
        "convert a number to binary | get the binary representation of an integer"
        " | convert decimal to binary | print a number in binary"
        " | convert a binary string to a number",
        "How do I see the bits of an integer as text, and read them back?",
        "bin() gives binary text, and int() with base 2 reads it:",
        """
text = bin(10)
number = int("1010", 2)
print(text, number)
""",
        "assert text == '0b1010' and number == 10",
    ),
    # The standard library
    _topic(
        "permutations",
        "get all permutations of a list | use itertools permutations"
        " | list every ordering of some items | generate permutations"
        " | print all arrangements of a list",
        "How do I list every possible ordering of three letters?",
        "itertools.permutations() yields every ordering:",
        """
from itertools import permutations

orders = list(permutations("abc"))
print(len(orders))
""",
        "assert len(orders) == 6 and ('c', 'b', 'a') in orders",
    ),
    _topic(
        "combinations",
        "get all combinations of a list | use itertools combinations"
        " | get all pairs of a list | choose two items in every possible way"
        " | generate combinations",
        "How do I obtain each possible pair out of some items?",
        "itertools.combinations() yields every choice:",
        """
from itertools import combinations

pairs = list(combinations([1, 2, 3], 2))
print(pairs)
""",
        "assert pairs == [(1, 2), (1, 3), (2, 3)]",
    ),
    _topic(
        "deque",
        "use a queue | make a first in first out queue | use deque | implement a queue"
        " | add and remove items at both ends",
        "What data structure lets me take items from the front quickly?",
        "deque from the collections module is fast at both ends:",
        """
from collections import deque

queue = deque(["a", "b"])
queue.append("c")
first = queue.popleft()
print(first, list(queue))
""",
        "assert first == 'a' and list(queue) == ['b', 'c']",
    ),
    _topic(
        "environment",
        "read an environment variable | get an environment variable | use os environ"
        " | access environment variables | read a setting from the environment",
        "How does my program look at a setting of its environment?",
        "os.environ is a dictionary; get() allows a default:",
        """
import os

editor = os.environ.get("EDITOR_NAME", "nano")
print(editor)
""",
        "assert editor == 'nano'",
    ),
    _topic(
        "arguments",
        "parse command line arguments | use argparse | read arguments from the command line"
        " | write a command line program | handle command line options",
        "How do I give my script options that users type in the shell?",
        "Use the argparse module:",
        """
import argparse

parser = argparse.ArgumentParser()
parser.add_argument("--count", type=int, default=1)
args = parser.parse_args(["--count", "3"])
print(args.count)
""",
        "assert args.count == 3",
        "Call parse_args() without a list to read the real arguments.",
    ),
    _topic(
        "logging",
        "log a message | use logging | write log messages | set up logging"
        " | print log output with a level",
        "How do I record what my program does instead of printing it?",
        "Configure the logging module once, then log with a level:",
        """
import logging

logging.basicConfig(level=logging.INFO)
logger = logging.getLogger("app")
logger.info("started")
""",
        "assert logger.name == 'app' and logger.isEnabledFor(logging.INFO)",
    ),
    _topic(
        "run-command",
        "run a shell command | run another program | use subprocess"
        " | execute an external command | get the output of a command",
        "How do I start an external program and read what it prints?",
        "subprocess.run() starts a program and waits for it:",
        """
import subprocess
import sys

command = [sys.executable, "-c", "print('hi')"]
result = subprocess.run(command, capture_output=True, text=True)
print(result.stdout)
""",
        "assert result.returncode == 0 and result.stdout.strip() == 'hi'",
    ),
    _topic(
        "threads",
        "run functions in threads | use a thread pool | run code in parallel with threads"
        " | use ThreadPoolExecutor | start threads",
        "How may several function calls run at once in threads?",
        "ThreadPoolExecutor runs calls in threads; map() keeps the order:",
        """
from concurrent.futures import ThreadPoolExecutor

def square(n):
    return n * n

with ThreadPoolExecutor() as pool:
    results = list(pool.map(square, [1, 2, 3]))
print(results)
""",
        "assert results == [1, 4, 9]",
    ),
    _topic(
        "asyncio",
        "write an async function | use async and await | use asyncio"
        " | run a coroutine | run asynchronous code",
        "How do I define and start a coroutine?",
        "Define it with async def and start it with asyncio.run():",
        """
import asyncio

async def work():
    await asyncio.sleep(0.01)
    return "done"

result = asyncio.run(work())
print(result)
""",
        "assert result == 'done'",
    ),
    _topic(
        "type-hints",
        "add type hints to a function | use type annotations | annotate a function with types"
        " | declare the type of a parameter | write type hints",
        "How do I state which types the parameters of a function have?",
        "Write types after a colon, and the result after an arrow:",
        """
def repeat(text: str, times: int = 2) -> str:
    return text * times

print(repeat("ha"))
""",
        "assert repeat('ha') == 'haha' and repeat.__annotations__['times'] is int",
    ),
)
