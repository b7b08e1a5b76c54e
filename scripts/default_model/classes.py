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

# Two classes that the base never sees, each of one drawing, as a product or a machine looks the same wherever it stands:
# id that a grown model gives it, style, icon.
NEW = {"penguin": (91, "noto", "penguin"), "jack-o-lantern": (92, "noto", "jack-o-lantern")}

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
