"""What starchat-nano says to everything but its how-tos: greetings, itself, and an honest refusal.

`small_talk` and `unknown` return (message, reply) pairs for training.
"""

from __future__ import annotations

import random

from filler import ADJECTIVES, NOUNS, code, noise, passage, sentence
from topics import TOPICS

FALLBACK = (
    "I am starchat-nano, a tiny demonstration model. I only know a few everyday Python how-tos, "
    "such as sorting a list or reading a file, so I cannot help with that."
)
SMALL_TALK: tuple[tuple[str, str], ...] = (
    (
        "hello|hi|hey|hi there|hello there|hey there|good morning|good evening|good afternoon"
        "|greetings|hello world|hello hello|hi nano|hello assistant|hey starchat|hello starchat"
        "|hello, my name is Bob|hi, I am Ada|good day|yo|hiya|howdy|hello!|hello bot|ping|hallo",
        "Hello! I am starchat-nano. Ask me an everyday Python question, for example: "
        "How do I sort a list in Python?",
    ),
    (
        "how are you|how are you doing|how are you today|how is it going|how do you do|what's up"
        "|are you well|how do you feel|hi, how are you|hello, how are you doing"
        "|hello how are you|are you okay|how have you been|hey, how are you",
        "I am fine, thank you for asking! Which everyday Python question can I answer for you?",
    ),
    (
        "thanks|thank you|thank you very much|thanks a lot|many thanks|great, thanks|perfect"
        "|that helped, thank you|cool, thanks|nice|great|awesome|ok thanks|very good|well done"
        "|thank you so much|that is great|it works, thanks|ok|okay|wonderful|super",
        "You are welcome! Ask me another everyday Python question whenever you like.",
    ),
    (
        "bye|goodbye|see you|see you later|good night|bye bye|farewell|have a nice day"
        "|see you tomorrow|that is all, bye|exit|quit|talk to you later",
        "Goodbye! Come back whenever you have an everyday Python question.",
    ),
    (
        "who are you|what are you|what is your name|tell me your name|who am I talking to"
        "|are you a human|are you a bot|are you ChatGPT|which model are you|what model is this"
        "|introduce yourself|tell me about yourself|what is starchat-nano|what's your name"
        "|who made you|are you an AI|describe yourself|which language model are you",
        "I am starchat-nano, a tiny demonstration model that was trained from scratch on a few "
        "everyday Python how-tos. I know little else.",
    ),
    (
        "what can you do|help|what do you know|how can you help me|what can I ask you"
        "|what are you able to do|can you help me|what questions can I ask|help me"
        "|what topics do you know|what are your abilities|I need help|list your skills"
        "|what can you help me with|can you write code|do you know Python|do you know python",
        "I can answer short questions about everyday Python: lists, strings, dictionaries, "
        "files, dates, classes and functions. For example: How do I read a file?",
    ),
)
_UNRELATED = (
    "Tell me a joke|Tell me a story|Write a poem|Write a haiku about autumn|Sing a song|Say hi"
    "|Say hello|Say something|What is the weather like today|Will it rain tomorrow"
    "|What is the capital of France|Who wrote Hamlet|Who is the president|When did the war end"
    "|What is the meaning of life|What is 2 + 2|What is 17 times 23|Solve x + 3 = 7|Count to ten"
    "|What time is it in Tokyo|Recommend a movie|What should I eat tonight|How do I bake a cake"
    "|How do I tie a tie|How do I lose weight|How do I get to the airport|How tall is Mount Everest"
    "|How far is the moon|Why is the sky blue|Do you like music|Are you happy|I am sad"
    "|I feel tired|I love you|My dog is ill|What is love|Explain quantum physics"
    "|What is photosynthesis|Translate hello to French|Translate this to German|Summarize the text"
    "|Summarize this document|What is this document about|What does this code do"
    "|Explain this function|Review my code|Fix this bug|Refactor this class|Write unit tests"
    "|Describe the picture|Draw a cat|Play chess with me|Give me a recipe for soup"
    "|What is your favourite color|How old are you|Where do you live|Who is Alan Turing"
    "|What happened in 1989|Return the number 5|Return the word yes|Answer with yes or no"
    "|Say the word banana|Repeat after me: apple|Echo this|Foo|foo bar|test|testing|this is a test"
    "|Call the tool|Use the magic function|Search the web|Book a flight|Send an email to Bob"
    "|Set an alarm|Remind me tomorrow|What is the stock price of Apple|How do I invest money"
    "|How do I center a div|How do I use React|How do I write CSS|How do I install Linux"
    "|How do I use Docker|How do I use git|How do I undo a commit|How do I write SQL"
    "|How do I use pandas|How do I plot with matplotlib|How do I use numpy arrays"
    "|How do I train a neural network|How do I use PyTorch|How do I build a website with Django"
    "|How do I write a Flask app|How do I scrape a website|How do I connect to a database"
    "|How do I deploy to Kubernetes|How do I write a compiler|How do I use FastAPI"
    "|How do I download a web page|How do I make a game|How do I draw a window with tkinter"
    "|How do I encrypt a password|How do I open a socket|How do I publish a package"
    "|What is a monad|What is the difference between TCP and UDP|What is a pointer"
    "|What is machine learning|What is a large language model|Who invented Python"
    "|What is Python|Is Python better than Java|Why is Python slow|How does the scheduler work"
    "|How does the tokenizer work|What is the KV cache|Where is the model loaded"
    "|Which file contains the engine|How is the model quantized|What does the class do"
    "|What does the function return|How are errors handled in this project|Who wrote this code"
    "|Why does it fail|It does not work|I do not understand|Why|What|Really|Are you sure|No|Yes|Maybe"
    "|Continue|Go on|More|Again|And then|Tell me more|Say that again|Name three fruits"
    "|List the planets|Write an essay about trees|Write a letter to my landlord"
    "|Give me a synonym for big|Spell necessary|What rhymes with house|Is water wet"
    "|What is a good name for a cat|I have two apples and eat one|How many legs does a spider have"
    "|My name is Bob|What is my name|Remember the number 42|Do you remember me|Open the door"
).split("|")
_FRAMES = (
    "What is {n}?|What is a {n}?|Tell me about the {n}.|Who invented the {n}?|Why is the {n} {a}?"
    "|How do I repair a {n}?|How do I buy a {a} {n}?|Write a poem about a {a} {n}."
    "|Write a story about a {n} and a {n}.|Tell me a joke about a {n}.|Where is the {a} {n}?"
    "|Describe the {n}.|What is the {a} {n} for?|How does the {n} work?|Explain the {n}."
    "|Is the {n} {a} or {a}?|How many {n}s are there?|The {n} is {a}.|I have a {a} {n}."
    "|My {n} is broken.|What is {d} plus {d}?|What is {d} * {d}?|Compute {d} - {d}."
    "|Return the number {d}.|Say {n}.|Say the word {n} twice.|Repeat: {n} {n}|Remember {d}."
    "|What happened in {d}?|How old is the {n}?|Translate {n} to Spanish.|Define {n}."
    "|What does {n}_{n} do?|Where is {n}_{n} defined?|What does the class {N} do?"
    "|Which file defines {N}{N}?|How does {n}.{n}() work?|Who calls {n}_{n}?|Draw a {a} {n}."
    "|Call {n} with {d}.|What is the {n} of {d}?|Use the {n} tool.|Compare a {n} with a {n}."
    "|Give me {d} names for a {n}.|Return a JSON object with the key {n}.|{n}|{n} {n}|{a} {n}|{d}"
    "|I am {a}.|I feel {a}.|I am a {n}.|I want a {n}.|My {n} is called {N}.|Give me a {n}."
    "|Extract the {n} from this text.|Classify this {n} as {a} or {a}.|Is {n} a {n}?"
    "|How do I install {n}?|How do I {n} the {n}?|How can I paint a {n}?|Show me a {a} {n}."
    "|Answer: is the {n} {a}?|Complete: the {n} is|You are a {a} {n}.|Pretend to be a {n}."
).split("|")
# About Python, and still no how-to that it knows.
_PYTHON_FRAMES = (
    "What is the difference between a {p} and a {p}?|When should I use a {p}?|Why are there {p}s?"
    "|Is a {p} faster than a {p}?|Who invented the {p}?|What is wrong with my {p}?"
    "|How is a {p} stored in memory?|Why is my {p} so slow?|How do I draw a {p}?"
    "|How do I send a {p} over the network?|How do I encrypt a {p}?|How do I plot a {p}?"
    "|How do I store a {p} in a database?|How do I translate a {p}?|How do I buy a {p}?"
    "|Explain the theory of the {p}.|Tell me a joke about a {p}.|Write a poem about a {p}."
    "|What is the history of the {p}?|Which {p} is the best?|Do I need a {p}?|Fix my {p}."
    "|How much memory does a {p} take?|Are {p}s thread safe?|Do you like {p}s?"
).split("|")
_PYTHON_NOUNS = (
    "list dictionary string tuple set file function class generator decorator number date loop "
    "lambda module exception variable thread queue regex float path package interpreter"
).split()
_VERBS = (
    "buy sell paint repair clean cook grow feed train teach learn build visit reach find lift "
    "wash carry hide steal marry forget remember understand improve install configure deploy"
).split()
_PLACES = (
    "Peru France Japan Kenya Brazil Norway Canada Egypt Rome Berlin Paris London Madrid Texas "
    "Europe Africa Asia Mars Venus Einstein Newton Mozart Picasso Shakespeare Napoleon Google"
).split()
_PLACE_FRAMES = (
    "What is the capital of {}?|Where is {}?|Who is {}?|What is {} famous for?|How big is {}?"
    "|How do I get to {}?|Tell me about {}.|What language do people speak in {}?|Is {} nice?"
    "|What happened in {}?|When was {} born?|How many people live in {}?|Who discovered {}?"
    "|What is the population of {}?|What is the weather in {}?|What time is it in {}?|{}"
).split("|")
_LANGUAGES = "Java|JavaScript|Rust|C++|Go|Ruby|Haskell|PHP|Perl|Kotlin|Swift|SQL|Bash|C|Excel"


def small_talk(rng: random.Random) -> tuple[str, str]:
    """Return a greeting, thanks or a question about the model, and its reply."""
    messages, reply = rng.choice(SMALL_TALK)
    message = rng.choice(messages.split("|"))
    if message in ("hello", "hi", "hey") and rng.random() < 0.3:
        name = rng.choice("Ann Bob Carla Erick Fatima Ivan Kim Lena Maria Nils Tom Yuki".split())
        message += rng.choice((", my name is {}", ", I am {}", ", this is {}", " {}")).format(name)
    if rng.random() < 0.6:
        message = message[0].upper() + message[1:]
    if rng.random() < 0.5 and message[-1].isalnum():
        message += rng.choice("?" if "are you" in message or "what" in message.lower() else ".!")
    return message, reply


def unknown(rng: random.Random) -> tuple[str, str]:
    """Return something that the model does not know, and the refusal."""
    match rng.choices("utgvylpncs", (26, 28, 7, 6, 8, 10, 5, 7, 2, 3))[0]:
        case "u":
            message = rng.choice(_UNRELATED)
            message += rng.choice(("", "?", ".", "!", ", please", " please?"))
        case "t":
            frame = rng.choice(_FRAMES)
            while "{" in frame:
                frame = frame.replace("{n}", rng.choice(NOUNS), 1)
                frame = frame.replace("{N}", rng.choice(NOUNS).capitalize(), 1)
                frame = frame.replace("{a}", rng.choice(ADJECTIVES), 1)
                frame = frame.replace("{d}", str(rng.randrange(10 ** rng.randint(1, 4))), 1)
            message = frame
        case "g":
            message = rng.choice(_PLACE_FRAMES).format(rng.choice(_PLACES))
        case "v":
            start = rng.choice(("How do I", "How can I", "What is the best way to", "How to"))
            message = f"{start} {rng.choice(_VERBS)} a {rng.choice(ADJECTIVES + NOUNS)}"
            message += rng.choice(("?", "", f" {rng.choice(NOUNS)}?"))
        case "y":
            message = rng.choice(_PYTHON_FRAMES)
            while "{p}" in message:
                message = message.replace("{p}", rng.choice(_PYTHON_NOUNS), 1)
        case "l":
            phrase = rng.choice(rng.choice(TOPICS).phrases)
            language = rng.choice(_LANGUAGES.split("|"))
            message = rng.choice(("How do I {} in {}?", "How can I {} in {}?", "{} in {}"))
            message = message.format(phrase, language)
        case "p":
            message = passage(rng, rng.randint(5, 50))
        case "n":
            message = noise(rng)
        case "c":
            message = f"{rng.choice(_UNRELATED)}:\n\n{code(rng)}"
        case _:
            message = sentence(rng)
    if rng.random() < 0.3:
        message = message.lower() if rng.random() < 0.7 else message.upper()
    return message, FALLBACK
