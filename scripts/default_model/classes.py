"""Which icons show which class. Names are Iconify's; a set that lacks a name is passed over.

Ids are those of COCO's label map, 1 to 90 with ten unused ones. Classes without a fitting icon have no examples; the model
card lists them.
"""

# Icon sets with their licences; versions are pinned in `sprites.py`.
STYLES = ("noto", "twemoji", "fluent-emoji-flat", "fluent-emoji", "emojione")
# A style that no training scene shows: what the detector makes of it tells whether it learned things or drawings.
HELD_OUT_STYLE = "fxemoji"

ICONS = {
    1: "man-standing woman-standing person-standing man-walking woman-walking person-walking walking man-dancing "
       "woman-dancing man-running woman-running person-running runner dancer",
    2: "bicycle",
    3: "automobile sport-utility-vehicle oncoming-automobile",
    4: "motorcycle motor-scooter",
    5: "airplane small-airplane",
    6: "bus oncoming-bus trolleybus",
    7: "locomotive high-speed-train bullet-train tram train steamlocomotive",
    8: "delivery-truck articulated-lorry pickup-truck",
    9: "sailboat speedboat motor-boat canoe",
    10: "vertical-traffic-light horizontal-traffic-light verticaltrafficlight",
    13: "stop-sign",
    16: "bird eagle parrot duck dove swan flamingo",
    17: "cat black-cat catside",
    18: "dog poodle guide-dog service-dog dogside",
    19: "horse",
    20: "ewe ram sheep",
    21: "cow ox water-buffalo",
    22: "elephant",
    23: "bear polar-bear bear-face",
    24: "zebra",
    25: "giraffe",
    27: "backpack school-backpack",
    28: "umbrella closed-umbrella umbrella-with-rain-drops umbrellawithraindrops",
    31: "handbag clutch-bag",
    32: "necktie",
    33: "luggage",
    34: "flying-disc",
    35: "skis skiandskiboot",
    37: "soccer-ball basketball volleyball baseball softball soccerball",
    38: "kite",
    41: "skateboard",
    43: "tennis tennisracquetandball",
    44: "bottle-with-popping-cork lotion-bottle baby-bottle sake",
    46: "wine-glass wineglass",
    47: "teacup-without-handle hot-beverage cup-with-straw hotbeverage",
    49: "kitchen-knife dagger hocho",
    50: "spoon",
    51: "bowl-with-spoon steaming-bowl",
    52: "banana",
    53: "red-apple green-apple redapple greenapple",
    54: "sandwich",
    55: "tangerine",
    56: "broccoli",
    57: "carrot",
    58: "hot-dog",
    59: "pizza slice-of-pizza sliceofpizza",
    60: "doughnut",
    61: "birthday-cake shortcake moon-cake birthdaycake",
    62: "chair seat",
    63: "couch-and-lamp couchandlamp",
    64: "potted-plant",
    65: "bed",
    70: "toilet",
    72: "television",
    73: "laptop laptop-computer personalcomputer",
    74: "computer-mouse threebuttonmouse",
    76: "keyboard",
    77: "mobile-phone mobilephone",
    84: "closed-book green-book blue-book orange-book open-book greenbook bluebook",
    85: "alarm-clock mantelpiece-clock watch alarmclock",
    86: "amphora",
    87: "scissors blackscissors",
    88: "teddy-bear",
    90: "toothbrush",
}

# The two classes that the base never sees; ids are those that a grown model gives them.
NEW = {"tractor": (91, "tractor"), "guitar": (92, "guitar")}

# Other things. While the detector is trained they are labelled, too, as so many nameless classes: a detector that has to
# find and tell apart hundreds of things has boxes and features for things that it was never told of, as one of photographs
# has. Their columns are dropped at the end, so that in the exported detector they are background. None is of COCO's
# classes, like one of them, or like a new class.
OTHER_CLASSES = 60
FIRST_OTHER = 101
OTHERS = (
    "ant badger bat beaver beetle blossom blowfish boar bug butterfly cactus camel cherry-blossom chipmunk cockroach "
    "coral crab cricket crocodile deciduous-tree deer dolphin donkey dragon empty-nest evergreen-tree fallen-leaf "
    "feather fish fly four-leaf-clover frog gorilla hamster hedgehog hippopotamus honeybee hyacinth jellyfish "
    "kangaroo lady-beetle leaf-fluttering-in-wind leopard lion lizard lobster lotus mammoth maple-leaf microbe moose "
    "mosquito mushroom nest-with-eggs octopus orangutan otter owl oyster palm-tree paw-prints pig pig-nose rabbit "
    "raccoon rat rhinoceros rosette sauropod scorpion seal shamrock shark sheaf-of-rice shrimp skunk sloth snail "
    "snake spider spider-web spouting-whale squid t-rex tiger tropical-fish two-hump-camel unicorn whale white-flower "
    "wing worm avocado bacon baguette-bread beans bell-pepper bento-box blueberries bread brown-mushroom butter candy "
    "canned-food cheese-wedge cherries chestnut chocolate-bar chopsticks coconut cooked-rice cooking croissant "
    "cucumber curry-rice custard cut-of-meat dango dumpling ear-of-corn egg eggplant falafel fondue french-fries "
    "fried-shrimp ginger-root grapes green-salad ice ice-cream kiwi-fruit leafy-green lollipop meat-on-bone melon "
    "oden olive pea-pod peanuts popcorn potato poultry-leg pouring-liquid pretzel rice-cracker roasted-sweet-potato "
    "shallow-pan-of-food shaved-ice soft-ice-cream spaghetti sushi takeout-box tamale watermelon abacus accordion "
    "adhesive-bandage alembic axe balance-scale ballet-shoes ballot-box-with-ballot basket bathtub battery bell bell- "
    "with-slash billed-cap black-nib bomb bookmark bookmark-tabs boomerang bow-and-arrow briefs broken- "
    "chain broom bubbles bucket candle carpentry-saw chains cigarette clamp clapper-board clipboard coffin coin "
    "control-knobs crayon crown crutch diya-lamp dna door drop-of-blood drum dvd electric-plug elevator fax-machine "
    "file-cabinet film-frames film-projector fire-extinguisher flashlight flat-shoe floppy-disk flute folding-hand- "
    "fan funeral-urn gear gem-stone gloves goggles graduation-cap hair-pick hammer hammer-and-pick hammer-and-wrench "
    "hamsa headphone headstone high-heeled-shoe hiking-boot hook ladder ledger level-slider light-bulb link linked- "
    "paperclips lipstick long-drum loudspeaker low-battery magnet mans-shoe maracas megaphone memo microphone "
    "microscope military-helmet mirror moai money-with-wings nazar-amulet newspaper nut-and-bolt optical-disk package "
    "pager paintbrush paperclip pencil petri-dish pick pill placard plunger postal-horn postbox prayer-beads printer "
    "pushpin razor receipt red-paper-lantern rescue-workers-helmet ring roll-of-paper rolled-up-newspaper round- "
    "pushpin running-shoe safety-pin safety-vest satellite-antenna saxophone scarf screwdriver scroll shield "
    "shopping-cart shorts shower soap socks sponge stethoscope straight-ruler studio-microphone sunglasses syringe "
    "telescope test-tube thong-sandal toolbox top-hat trackball triangular-ruler trumpet wastebasket white-cane "
    "window womans-boot womans-hat womans-sandal wrench x-ray anchor bank barber- "
    "pole brick building-construction camping castle church circus-tent classical-building cloud cloud-with-lightning "
    "cloud-with-lightning-and-rain cloud-with-rain cloud-with-snow comet compass construction convenience-store "
    "cyclone department-store derelict-house desert desert-island droplet factory ferris-wheel fire flying-saucer "
    "fountain fuel-pump globe-showing-americas globe-showing-asia-australia globe-showing-europe-africa globe-with- "
    "meridians glowing-star high-voltage hindu-temple hospital hotel hourglass-done hourglass-not-done house house- "
    "with-garden houses hut japanese-castle japanese-post-office kaaba love-hotel mosque mount-fuji mountain "
    "national-park office-building oil-drum parachute playground-slide post-office ringed-planet rock rocket roller- "
    "coaster roller-skate satellite school shinto-shrine shooting-star snow-capped-mountain snowflake stadium star "
    "station statue-of-liberty sun sun-behind-cloud sun-behind-large-cloud sun-behind-rain-cloud sun-behind-small- "
    "cloud synagogue tent thermometer tokyo-tower tornado volcano wedding wheel wood admission-tickets artist-palette "
    "balloon boxing-glove bullseye carp-streamer chess-pawn christmas-tree curling-stone diving-mask firecracker "
    "fireworks fishing-pole flag-in-hole flower-playing-cards framed-picture game-die goal-net ice-hockey ice-skate "
    "japanese-dolls joker joystick knot magic-wand mahjong-red-dragon martial-arts-uniform nesting-dolls party-popper "
    "performing-arts pine-decoration puzzle-piece reminder-ribbon ribbon sewing-needle slot-machine sparkler sparkles "
    "tanabata-tree thread ticket trophy water-pistol wind-chime wrapped-gift yarn yo-yo "
)


def other_class(name):
    """Which of the nameless classes a thing belongs to, from 0: arbitrary, but the same in every drawing of it."""
    names = OTHERS.split()
    return names.index(name) * OTHER_CLASSES // len(names)


# COCO's label map: ids, names.
NAMES = {
    1: "person", 2: "bicycle", 3: "car", 4: "motorcycle", 5: "airplane", 6: "bus", 7: "train", 8: "truck", 9: "boat",
    10: "traffic light", 11: "fire hydrant", 13: "stop sign", 14: "parking meter", 15: "bench", 16: "bird", 17: "cat",
    18: "dog", 19: "horse", 20: "sheep", 21: "cow", 22: "elephant", 23: "bear", 24: "zebra", 25: "giraffe",
    27: "backpack", 28: "umbrella", 31: "handbag", 32: "tie", 33: "suitcase", 34: "frisbee", 35: "skis", 36: "snowboard",
    37: "sports ball", 38: "kite", 39: "baseball bat", 40: "baseball glove", 41: "skateboard", 42: "surfboard",
    43: "tennis racket", 44: "bottle", 46: "wine glass", 47: "cup", 48: "fork", 49: "knife", 50: "spoon", 51: "bowl",
    52: "banana", 53: "apple", 54: "sandwich", 55: "orange", 56: "broccoli", 57: "carrot", 58: "hot dog", 59: "pizza",
    60: "donut", 61: "cake", 62: "chair", 63: "couch", 64: "potted plant", 65: "bed", 67: "dining table", 70: "toilet",
    72: "tv", 73: "laptop", 74: "mouse", 75: "remote", 76: "keyboard", 77: "cell phone", 78: "microwave", 79: "oven",
    80: "toaster", 81: "sink", 82: "refrigerator", 84: "book", 85: "clock", 86: "vase", 87: "scissors", 88: "teddy bear",
    89: "hair drier", 90: "toothbrush",
}
