"""Makes the values that requests name and calls must copy: words, names, numbers, paths, scripts.

Most are made up, so that a model can only copy them. A `HeldOut` generator draws the words from
lists that training never uses. Everything is deterministic by the generator given.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from keyword import iskeyword

from filler import ADJECTIVES, NOUNS

_ONSETS = (
    "b c d f g h j k l m n p r s t v w z br ch cl cr dr fl fr gl gr kl pl pr qu sh sk sl sn sp st "
    "str th tr tw wh"
).split()
_VOWELS = "a e i o u a e i o u ai ea ee ia io oo ou y".split()
_CODAS = (
    "b d g k l m n p r s t x ck ft ld ll lt mp nd ng nk nt rd rk rm rn rt sh sk ss st th ve er on"
).split()
_PLACES = (
    "Berlin Paris Oslo Tokyo Lima Cairo Rome Vienna Madrid Boston Sydney Delhi Seoul Dublin Quito "
    "Nairobi Prague Athens Zagreb Lisbon Chicago Toronto Munich Kyoto Havana Denver Geneva Riga"
).split()
_PEOPLE = (
    "Anna Bob Carla David Emma Frank Grace Henry Iris Jack Karen Leo Maria Nina Oscar Paul Rosa "
    "Sam Tina Uwe Vera Walter Yuki Zoe Ahmed Chen Fatima Igor Priya Lars Kofi Amara Hugo Elif"
).split()
_MORE_NOUNS = (
    "account address alarm album animal apple article author bird boat bottle box branch bus card "
    "chair city client cloud code color company contact country course crate date day desk device "
    "door event file film flag flight folder game group hotel house image invoice issue item job "
    "key lamp language lamp lesson light list location lock log map match meal meeting member "
    "message metal month movie name note number office order owner parcel part patient payment "
    "person phone photo place plan plant player point post price product quote rate reminder room "
    "route score seat ship shop show song stock stop store street table task team test text time "
    "title topic tower town track train trip tool user value vehicle video vote wallet website week "
    "wheel window word year zone abacus academy actor agenda alley almond amber angle ankle apron "
    "arcade arch armor arrow artist aspect asset atlas attic autumn avenue award axle badge bakery "
    "balance bamboo banana banner barber barn baron basin batch bath beach beam bean bear beard "
    "beetle belt bench berry bicycle bishop blade blossom blouse boiler bolt bone bonus border "
    "bottom boulder bowl brain brass bread breeze bride broom brother bubble bucketful bulb bullet "
    "bundle bunker burger bush cabin cable cafe cage cake calendar camel campus canal canvas cape "
    "captain caravan cargo carrot cart cashier cattle cave cedar cellar cement cereal chain chalk "
    "champion channel charm chart cheese chef cherry chess choir cinema circle circus citizen clay "
    "cliff clinic clip cloak closet clover coach coast coat cobra cocoa coffee collar colony comb "
    "comet concert coral cord corner cottage cotton couch council counter court cousin crab crane "
    "crater crayon creek crown crystal cube cup curtain curve cycle dairy dam dance dancer deal "
    "degree delta dentist depot desert dessert diamond diary diet dinner diploma district dock "
    "dollar donkey doorbell dough dove dragon dream dress driver drum duck dust eagle earth echo "
    "eclipse editor egg elbow election elephant elevator empire enemy envelope episode error essay "
    "estate evening exam exhibit factory fairy family farm farmer feather ferry fiber field fig "
    "figure finger fire fish flame flask fleet flood floor flour flower flute foam fog fork formula "
    "fort fossil fox frame freight friend frog frost fruit fuel funnel galaxy gallery garage garlic "
    "gate gear gem ghost giant ginger giraffe glass glove goal goat gold goose grain grape grass "
    "gravel grid guard guest guide guitar gulf habit hair hall hamster harbor hat hawk hedge heart "
    "heel hen herb hero hill hobby hockey honey hood hook horn horse hospital hour hunter hut ice "
    "icon income ink inn insect iron ivory jar jazz jelly jewel journal judge juice jury kayak "
    "keyboard king kiosk kite kitten knee knife knight label lace lake lamb lane laptop laser "
    "laundry lawn lawyer leaf leather legend lemon lens lever license lily lime lion liquid loaf "
    "lobby lobster loop lotus lunch machine mango manual maple marble margin marker mask mast mayor "
    "maze medal melody melon menu mercury mill mine mint minute mission mixer monkey monster "
    "morning mosaic moss moth motor mouse mouth mud muffin mug mule muscle mushroom nail neck nest "
    "net nickel night noodle north nose novel nurse nut oak oasis ocean olive onion opera orbit "
    "organ ostrich otter oven owl oxygen pad palace palm panda panel panther parade park parrot "
    "party pasta peach peacock peanut pear pearl pen pencil penguin pepper perfume pepperoni petal "
    "pie pig pigeon pilot pin pine pipe pirate pixel pizza plain plane plank plastic plate plaza "
    "plum poem poet pole pond pony pool port portrait potato pottery powder prince prison prize "
    "prose pump pupil puppet puzzle pyramid quartz queen quiz rail rainbow ranch ray reef region "
    "reptile rhyme rice riddle rifle ring road robin robot rock rocket roof rope rose ruby rug "
    "ruler sail salad salmon salt sand sandal sauce scale school science scout screen screw sea "
    "season secret seed shadow shark sheep shelf shell shield shirt shoe shore shoulder shrimp "
    "signal silk silver siren sister skate sketch ski skin sky sled sleeve slope smoke snail snake "
    "snow soap soil soldier soup south spark sparrow speaker spear spice spider spoon spring stable "
    "stadium staff stage stair stamp star steam steel stem stone storm stove straw stripe studio "
    "suit summer sun surface swamp swan sweater sword syrup tail tailor tank tape target tea temple "
    "tennis theater throne thumb tiger tile timber tin toast tomato tooth torch towel toy trail "
    "treasure tree triangle trophy truck tulip tuna turkey uncle uniform valley vase vault vest "
    "villa vine vinegar virus voice vowel voyage wagon waist waiter wall wave wax web wedding whale "
    "wheat wing winter wire wolf wood wool worm wrist yard yarn yogurt zebra zinc"
).split()
_MORE_VERBS = (
    "get set find list add create make delete remove update fetch read write send show open close "
    "start stop run check count search book cancel convert compute measure move copy print play "
    "save load rename sort rate share sell buy order translate resize rotate encode lock unlock "
    "schedule register lookup describe compare merge split export import upload download"
).split()
HELD_OUT_NOUNS = (
    "acorn anchor antenna balloon barrel basket beacon blanket bracelet brick bucket butterfly "
    "button cactus candle canyon carpet ceiling chimney compass copper cradle cushion dagger "
    "dolphin drawer easel falcon fence fiddle fountain glacier goblet hammer harvest helmet hinge "
    "igloo jacket jungle kettle ladder lantern lizard locker magnet mattress meadow mirror mitten "
    "napkin needle orchard oyster paddle pebble pelican pillow pocket quarry quilt rabbit raft "
    "ribbon saddle scarf shovel skeleton spindle sponge squirrel statue teapot thimble trumpet "
    "tunnel turtle umbrella velvet volcano walnut whistle zipper"
).split()
HELD_OUT_VERBS = (
    "arrange attach bake bend brew carve chase climb compress decorate dissolve drag drain fold "
    "freeze gather glue grind hang heat hide hoist inflate juggle knit launder melt mend mix "
    "paint peel polish pour scrub seal shake sharpen shred slice stack stir stitch sweep tie "
    "trim twist unpack wash weave weigh wrap"
).split()
_HELD_OUT = frozenset(HELD_OUT_NOUNS + HELD_OUT_VERBS)
_WORDS = (*NOUNS, *_MORE_NOUNS, *_MORE_VERBS)
# First and last code points of scripts to write values in.
_SCRIPTS = (
    *((0x4E00, 0x9FA0), (0x4E00, 0x9FA0), (0x3041, 0x3093), (0x30A1, 0x30F6), (0xAC00, 0xD7A0)),
    *((0x430, 0x44F), (0x3B1, 0x3C9), (0x5D0, 0x5EA), (0x627, 0x64A), (0x905, 0x939)),
    *((0xE01, 0xE2E), (0xE0, 0xFF), (0x1F300, 0x1F6FF), (0x10D0, 0x10F0), (0x561, 0x587)),
)
_EXTENSIONS = "py txt md json csv toml cpp hpp html log yaml png pdf".split()


class HeldOut(random.Random):
    """A generator for evaluation: no word of it is known from training."""


class Narrow(random.Random):
    """A generator with few words: names share them, so that only whole names tell them apart."""

    def __init__(self, seed: float) -> None:
        super().__init__(seed)
        wide = random.Random(seed)
        self.nouns = [noun(wide) for _ in range(wide.randint(8, 80))]
        self.verbs = [verb(wide) for _ in range(wide.randint(8, 40))]


def pseudo_word(rng: random.Random) -> str:
    """Return a made-up word of one to three syllables."""
    parts = []
    for _ in range(rng.choices((1, 2, 3), (3, 6, 2))[0]):
        parts += [rng.choice(_ONSETS), rng.choice(_VOWELS)]
        if rng.random() < 0.5:
            parts.append(rng.choice(_CODAS))
    text = "".join(parts)
    return pseudo_word(rng) if text in _HELD_OUT or iskeyword(text) else text


def blend(rng: random.Random) -> str:
    """Return the beginning of one word with the end of another: English to the eye, and new."""
    first, last = rng.choice(_WORDS), rng.choice(_WORDS)
    text = first[: rng.randint(2, max(2, len(first) - 1))] + last[-rng.randint(2, len(last)) :]
    return blend(rng) if text in _HELD_OUT or iskeyword(text) else text


def noun(rng: random.Random) -> str:
    """Return a real or made-up noun."""
    if isinstance(rng, HeldOut):
        return rng.choice(HELD_OUT_NOUNS)
    if isinstance(rng, Narrow):
        return rng.choice(rng.nouns)
    match rng.choices(range(4), (25, 20, 15, 40))[0]:
        case 0:
            return pseudo_word(rng)
        case 1:
            return blend(rng)
        case 2:
            return rng.choice(NOUNS)
    return rng.choice(_MORE_NOUNS)


def verb(rng: random.Random) -> str:
    """Return a real or made-up verb in its base form."""
    if isinstance(rng, HeldOut):
        return rng.choice(HELD_OUT_VERBS)
    if isinstance(rng, Narrow):
        return rng.choice(rng.verbs)
    if rng.random() < 0.45:
        return rng.choice((pseudo_word, blend))(rng)
    return rng.choice(_MORE_VERBS)


def identifier(rng: random.Random) -> str:
    """Return a name as parameters and functions have: snake_case mostly."""
    words = [noun(rng)]
    if rng.random() < 0.4:
        words.append(noun(rng))
    if rng.random() < 0.06:
        return words[0] + "".join(word.capitalize() for word in words[1:])
    return "_".join(words)


def place(rng: random.Random) -> str:
    """Return a town."""
    kind = rng.random()
    if kind < 0.2 and not isinstance(rng, HeldOut):
        return rng.choice(_PLACES)
    town = pseudo_word(rng).capitalize()
    if kind < 0.6:
        return town
    if kind < 0.7:
        return script(rng)
    second = pseudo_word(rng).capitalize()
    return f"{town} {second}" if kind < 0.85 else f"{town} {second}, {second[:2].upper()}"


def person(rng: random.Random) -> str:
    """Return a person's name."""
    known = rng.random() < 0.3 and not isinstance(rng, HeldOut)
    first = rng.choice(_PEOPLE) if known else pseudo_word(rng).capitalize()
    if rng.random() < 0.12:
        return script(rng)
    return first if rng.random() < 0.4 else f"{first} {pseudo_word(rng).capitalize()}"


def script(rng: random.Random) -> str:
    """Return a name in some script, without a blank in it mostly."""
    first, last = rng.choice(_SCRIPTS)
    n_words = 1 if rng.random() < 0.8 else 2
    return " ".join(
        "".join(chr(rng.randint(first, last)) for _ in range(rng.randint(2, 5)))
        for _ in range(n_words)
    )


def word(rng: random.Random) -> str:
    """Return one word, as it is or capitalized."""
    text = noun(rng)
    return text.capitalize() if rng.random() < 0.3 else text


def phrase(rng: random.Random) -> str:
    """Return two to five words."""
    words = [rng.choice((noun, noun, verb, adjective))(rng) for _ in range(rng.randint(2, 4))]
    if rng.random() < 0.2:
        return " ".join(words).capitalize()
    if rng.random() < 0.1:
        words.append(integer_text(rng))
    return " ".join(words)


def adjective(rng: random.Random) -> str:
    """Return an adjective or a made-up word."""
    return rng.choice(ADJECTIVES) if rng.random() < 0.6 else pseudo_word(rng)


def sentence(rng: random.Random) -> str:
    """Return a short sentence of real and made-up words."""
    frame = rng.choice(
        (
            "The {} {} the {}.|A {} is {}.|Please {} the {}!|It is {}.|Is the {} {}?|No {} found."
            "|{} and {} are {}.|Bring the {} to {}.|It's {} in {}.|{}: {} {}.|The {} has {} {}s."
        ).split("|")
    )
    words = [rng.choice((noun, verb, adjective, integer_text))(rng) for _ in range(4)]
    text = frame.format(*words)
    return text[0].upper() + text[1:]


def integer(rng: random.Random) -> int:
    """Return an integer of one to seven digits, negative at times."""
    n_digits = rng.choices((1, 2, 3, 4, 5, 6), (10, 10, 6, 4, 2, 1))[0]
    value = rng.randrange(10**n_digits)
    return -value if rng.random() < 0.07 else value


def integer_text(rng: random.Random) -> str:
    """Return an integer's digits."""
    return str(abs(integer(rng)))


def number(rng: random.Random) -> float | int:
    """Return a number, with up to three digits after the point mostly."""
    if rng.random() < 0.35:
        return integer(rng)
    text = f"{rng.choice(('', '', '', '-'))}{abs(integer(rng)) % 10000}.{rng.randint(1, 9)}"
    return float(text if rng.random() < 0.4 else f"{text}{rng.randint(1, 9)}")


def path(rng: random.Random) -> str:
    """Return a file's path."""
    folders = [noun(rng) for _ in range(rng.choices((0, 1, 2), (3, 4, 2))[0])]
    stem = identifier(rng)
    if rng.random() < 0.15:
        stem = stem.upper()
    name = f"{stem}.{rng.choice(_EXTENSIONS)}"
    return rng.choice(("", "", "", "/", "./", "~/")) + "/".join((*folders, name))


def email(rng: random.Random) -> str:
    """Return an email address."""
    return f"{noun(rng)}@{pseudo_word(rng)}.{rng.choice(('com', 'org', 'net', 'de', 'io'))}"


def url(rng: random.Random) -> str:
    """Return a web address."""
    tail = f"/{noun(rng)}" if rng.random() < 0.6 else ""
    return f"https://{pseudo_word(rng)}.{rng.choice(('com', 'org', 'net', 'io'))}{tail}"


def date(rng: random.Random) -> str:
    """Return a date as YYYY-MM-DD."""
    return f"{rng.randint(1950, 2039)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"


def clock(rng: random.Random) -> str:
    """Return a time of day."""
    return f"{rng.randint(0, 23):02}:{rng.randint(0, 59):02}"


def code(rng: random.Random) -> str:
    """Return an identification of letters and digits."""
    letters = "".join(rng.choice("ABCDEFGHJKLMNPRSTUVWXYZ") for _ in range(rng.randint(1, 3)))
    digits = "".join(rng.choice("0123456789") for _ in range(rng.randint(2, 5)))
    return rng.choice(
        (f"{letters}-{digits}", f"{letters}{digits}", f"#{digits}", f"{digits}{letters}")
    )


def expression(rng: random.Random) -> str:
    """Return an arithmetic expression."""
    parts = [_operand(rng)]
    for _ in range(rng.choices((1, 2), (7, 3))[0]):
        parts += [rng.choice(("+", "-", "*", "/", "+", "*", "**", "%")), _operand(rng)]
    return ("" if rng.random() < 0.15 else " ").join(parts)


def _operand(rng: random.Random) -> str:
    if rng.random() < 0.15:
        sign = rng.choice(("+", "-", "*"))
        return f"({rng.randrange(100)} {sign} {rng.randrange(100)})"
    if rng.random() < 0.15:
        return f"{rng.randrange(100)}.{rng.randint(1, 9)}"
    return str(rng.randrange(10 ** rng.randint(1, 4)))


STRINGS: dict[str, Callable[[random.Random], str]] = {
    "word": word,
    "place": place,
    "person": person,
    "script": script,
    "phrase": phrase,
    "sentence": sentence,
    "path": path,
    "email": email,
    "url": url,
    "date": date,
    "clock": clock,
    "code": code,
    "expression": expression,
    "identifier": identifier,
}
# Values that a sentence can hold without quotation marks.
ATOMIC = frozenset(
    ("word", "place", "person", "script", "path", "email", "url", "date", "clock", "code")
)
