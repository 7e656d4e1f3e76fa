"""The [data] table of a recipe."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from tutelage.data.assemble import Policy
from tutelage.data.balance import Balance
from tutelage.data.images import MAX_PIXELS, Orientation, Range, Sides, is_range
from tutelage.data.interaction_files import COLUMNS
from tutelage.data.leakage import Leakage
from tutelage.data.mask_values import LARGEST_VALUE, MOST_CLASSES
from tutelage.data.shards import shards_of
from tutelage.data.splits import SplitRule
from tutelage.data.text_settings import TEXT_COLUMNS, TEXT_KEYS, TEXTS, BrokenTags, TooLong, check_texts
from tutelage.errors import UsageError, unknown

Name = Literal["digits", "cifar10", "cifar100", "fashion_mnist", "imagenet100", "folder", "shapes", "series", "waves",
               "shapes_boxes", "panel", "waves_forecast", "interactions", "shop", "table", "pairs", "text", "sentences"]
OWN_TASK = {"shapes": "segmentation", "shapes_boxes": "detection", "series": "series", "waves": "series",
            "panel": "forecast", "waves_forecast": "forecast", "interactions": "recommendation",
            "shop": "recommendation", "table": "regression", "pairs": "fusion", "text": "sentences",
            "sentences": "sentences"}
"""What the rows of a set are for where the recipe does not say it; of all others, classification."""
OF_BOXES = ("detection", "anchor_detection")
"""Tasks whose labels are boxes."""
OnBadImage = Literal["error", "skip"]
FilesAre = Literal["content", "suffix"]
Augment = Literal["none", "crop", "crop-flip", "random-resized-crop", "randaugment", "jitter"]
By = Literal["subject"]
BoxKind = Literal["coco", "voc", "yolo", "plain"]
SERIES = ("series", "waves")
PANELS = ("panel", "waves_forecast")
OF_TABLES = ("targets", "inputs")
"""What panels and other tables have."""
OF_PANELS = ("series", "time", "targets", "inputs", "log", "window", "horizon", "gap", "fold")
"""What panels alone have."""
OF_USERS = ("interactions", "shop")
"""Sets whose samples are users."""
Split = Literal["per_user", "time"]
Doubled = Literal["error", "merge"]
NO_PICTURES = (*SERIES, *PANELS, *OF_USERS, *TEXTS)
OF_PAIRS = ("crop", "fused")
"""What pairs of registered images alone have."""
ONLY_INTERACTIONS = ("core", "split", "groups", "doubled")
"""Keys of users and the items that they take."""
NOT_OF_USERS = ("only", "augment", "balance", "unlabelled")
OF_IMAGES = ("image_size", "mixup", "cutmix", "labels", "on_bad_image", "orientation", "leakage", "images_by",
             "value_range", "boxes", "objects", "regions")
"""What series and panels have none of."""


@dataclass(frozen=True)
class DataSettings:
    """The [data] table of a recipe.

    name: digits, cifar10, cifar100, fashion_mnist, imagenet100 or folder; shapes, shapes_boxes, series or waves; panel
        or waves_forecast; table; interactions or shop; pairs; text or sentences.
    task: what a network is to say of a row: classification, segmentation, detection, series, forecast, regression,
        recommendation, fusion, sentences, slots or words; default what the set is for. A folder is one of classes, with
        "segmentation" one of images and masks, with "detection" one of images and boxes, with "fusion" one of infrared
        and visible images.
    root: the folder of the files; of series a .ts, .npz or .csv file, the folder of one set, or FOLDER/NAME for its
        files NAME_TRAIN and NAME_TEST; default $TUTELAGE_DATA, or `data`. For `folder` it is the folder of the images
        itself; a relative one is looked for here, then under $TUTELAGE_DATA.
    batch_size: rows of a training batch (read by the trainer).
    image_size: pixels of both sides, or [height, width]; default 16 for digits (8 x 8 scaled up), 32 for cifar and
        fashion_mnist (28 x 28 with a black border of 2), 64 for shapes and shapes_boxes, 224 for folders, 320 for
        folders of boxes. Of pairs, which are never scaled: the central part that is looked at where nothing is drawn;
        default the largest that all have.
    validation: the share held out of the training rows, where a set has no validation split of its own; of those
        that are left once a fifth went to the test split, where a set has none of that either.
    unlabelled: use the images without a label too (`root/unlabelled/*`, `root/train/_unlabelled/*`).
    augment: none, crop, crop-flip, random-resized-crop (always with flip) or randaugment; default crop for
        digits, crop-flip for cifar and fashion_mnist, random-resized-crop for folders, also of masks (`mask_augment`)
        and boxes (`box_augment`). Of series none or jitter, which scales each channel and adds noise; default none.
    mixup, cutmix: the alpha of Beta(alpha, alpha); 0 is off.
    workers: processes that read images; "auto" takes half the cores (up to 16) if an accelerator computes, else
        a quarter (up to 8).
    download: fetch cifar and fashion_mnist if they are not there.
    limit: train on so many rows only, of each class in proportion and one at least; a smaller limit keeps a part of
        what a larger one does. Of users so many alone.
        (By split rule 1 the first by the hash of their ids, whatever their classes.)
    labels: a file with other labels for the training images of digits, cifar or fashion_mnist, as people or machines
        gave them: .npy, or FILE.npz:NAME; a whole number for each, in the order of the set's files, -1 for none. What
        is held out of them for validation keeps the labels of the set. A relative path is looked for here, then
        under $TUTELAGE_DATA.
    only: a .npy file with the ids of the rows to train on, for whoever chooses them; before `limit`.
    every_class: refuse an `only` that leaves a class without a training row. The phases of `class_incremental`, which
        learn from some classes on purpose, say false.
    split_rule: how rows are held out and limited, see `splits`. Each class keeps a training row by rule 2, and an image
        more moves at most two others; 1 is the rule of runs made before there was another.
    by: "subject" holds out series of whole subjects, so that nobody's are in two splits.
    balance: how often the rows of a class come in an epoch, which is as long as ever: "none", each once; "sqrt", a
        class in proportion to the square root of its rows; "uniform", all classes alike. A row that comes more than
        once in an epoch comes in the same augmentation; a row without a label comes once.
    max_pixels: a larger image is refused before it is decoded.
    follow_symlinks: follow links out of the folder of images.
    on_bad_image: what a damaged image of a folder does: "error" stops the run when it is read; "skip" decodes every
        image at every start, and leaves out those that cannot be: at most 1 % of a split, never a class's last image.
    orientation: how images of files are read: "upright" turns them as their EXIF tag says; "as stored" does not, as
        was done before there was this key, and is what run folders from then mean.
    leakage: what the same image in two splits, or under two classes, does: see `leakage`. By default one for training
        and for testing is an error, in a published set a note; every other is a note.
    images_by: by what a file of a folder is an image: its "content" or, as in runs made before there was this key, the
        "suffix" of its name; splits then go by the names train, val, valid, validation and test alone.
    mask_values: which value of a pixel of a mask is which class, { 0 = "background", 255 = "polyp" }; values of one
        name are one class, and classes are numbered by rising values. See `mask_values` for what holds without it.
    ignore: a value of masks, or several, that does not count.
    boxes: the format of a folder of images with boxes, coco, voc, yolo or plain, where its files do not tell.
    objects: the names of classes: boxes of others are left out, as if nobody had drawn them.
    regions: a JSON file in the folder with regions of each image, for a teacher of two stages (`box_regions`).
    test: "val": a folder's split `val` is its test split, and validation is cut from train.
    series, time: of panels, the columns that say whose a row is (none: one series) and when it was ("time").
    targets: of panels and tables, the columns to forecast, or to learn; inputs: those that are known, by default all.
    image: of tables, the column of the paths of images, from the folder of the table on; then no others are known.
    log: columns of which log(1 + x) is taken, before anything else.
    window, horizon: so many steps are known, and so many forecast.
    gap: so many steps between two splits are nobody's targets.
    fold: 0 tests on the last fifth of the steps; k ends all that k such periods earlier (walk-forward).
    core: of interactions: users and items with fewer are left out, again and again until none is left; default 10, of
        `shop` 5.
    split: "per_user" (default) holds out some of each user's interactions, by their names; "time" the latest of all.
    groups: so many groups of items, of about as many interactions each; a group may hold one item. Default 4.
    columns: how a file calls its columns, { user = "customer", item = "article" }; also time and weight; of text,
        text and label, tokens and tags.
    doubled: a user and an item that come again: "error" (default), or "merge" into one, at its first time.
    shards: deals the training rows out, { devices = 8, public = 0.2, concentration = 0.3 }: see `shards`.
    crop: of pairs, pixels of both sides of training crops, or [height, width]; default 96, or what the images have.
    fused: a folder with a fused image of the name of each pair: what the network `fused_files` gives. Of the set
        `pairs` any word: the means are made.
    texts, mixture, tokenizer, tokenizers, vocabulary, length, too_long, hidden, out_of_scope, broken_tags: of text, see
        `text_settings`.
    value_range: [low, high], the values that become black and white in files with more than 8 bits a channel; needed
        for 32-bit and for signed numbers; without it 16 bits go from 0 to 65535.
    """

    name: Name
    root: str | None = None
    batch_size: int = 128
    image_size: Sides | None = None
    validation: float = 0.1
    unlabelled: bool = False
    augment: Augment | None = None
    mixup: float = 0.0
    cutmix: float = 0.0
    workers: int | Literal["auto"] = 0
    download: bool = False
    limit: int | None = None
    labels: str | None = None
    only: str | None = None
    every_class: bool = True
    split_rule: SplitRule = 2
    balance: Balance = "none"
    max_pixels: int = MAX_PIXELS
    follow_symlinks: bool = False
    on_bad_image: OnBadImage = "error"
    orientation: Orientation = "upright"
    leakage: Leakage = "auto"
    images_by: FilesAre = "content"
    value_range: Range | None = None
    task: str | None = None
    by: By | None = None
    mask_values: dict[str, str] | dict[int, str] | None = None
    ignore: int | tuple[int, ...] | None = None
    test: Literal["val"] | None = None
    boxes: BoxKind | None = None
    objects: tuple[str, ...] | None = None
    regions: str | None = None
    series: str | None = None
    time: str | None = None
    targets: tuple[str, ...] | None = None
    inputs: tuple[str, ...] | None = None
    image: str | None = None
    log: tuple[str, ...] | None = None
    window: int = 20
    horizon: int = 1
    gap: int = 0
    fold: int = 0
    core: int | None = None
    split: Split | None = None
    groups: int | None = None
    columns: dict[str, str] | None = None
    doubled: Doubled | None = None
    shards: dict[str, float] | None = None
    crop: Sides | None = None
    fused: str | None = None
    texts: dict[str, str] | None = None
    mixture: dict[str, float] | None = None
    tokenizer: str | None = None
    tokenizers: dict[str, str] | None = None
    vocabulary: int = 2000
    length: int = 64
    too_long: TooLong = "error"
    hidden: float = 0.15
    out_of_scope: str | None = None
    broken_tags: BrokenTags = "error"

    @property
    def ignored(self) -> frozenset[int]:
        """The values of masks that do not count."""
        given = self.ignore if isinstance(self.ignore, tuple) else (self.ignore,)
        return frozenset(value for value in given if value is not None)

    @property
    def pools(self) -> tuple[str, ...]:
        """The names of the pools of sentences, the set's own aside; the made set has one."""
        return tuple(dict.fromkeys([*(["generic"] if self.name == "sentences" else []), *(self.texts or {})]))

    @property
    def work(self) -> str:
        """The name of the task."""
        return self.task or OWN_TASK.get(self.name, "classification")

    def __post_init__(self) -> None:
        if self.name not in get_args(Name):
            raise unknown("data set", self.name, get_args(Name), where="[data] name")
        self._check_kind()
        if self.on_bad_image not in get_args(OnBadImage):
            raise unknown("choice", self.on_bad_image, get_args(OnBadImage), where="[data] on_bad_image")
        if self.orientation not in get_args(Orientation):
            raise unknown("choice", self.orientation, get_args(Orientation), where="[data] orientation")
        if self.leakage not in get_args(Leakage):
            raise unknown("choice", self.leakage, get_args(Leakage), where="[data] leakage")
        if self.images_by not in get_args(FilesAre):
            raise unknown("choice", self.images_by, get_args(FilesAre), where="[data] images_by")
        if self.balance not in get_args(Balance):
            raise unknown("balance", self.balance, get_args(Balance), where="[data] balance")
        if self.value_range is not None and not is_range(self.value_range):
            raise UsageError("a range that is none", where="[data] value_range", found=self.value_range,
                             expected="[LOW, HIGH], two numbers, the lower first")
        if self.test not in (None, "val"):
            raise unknown("choice", self.test, ["val"], where="[data] test")
        if self.test is not None and self.name not in ("folder", "text"):
            raise UsageError("this set says itself what is tested on", where="[data] test", found=self.test,
                             fix="leave it out")
        if self.mask_values is not None or self.ignore is not None:
            self._check_masks()
        if self.objects is not None and (self.work not in OF_BOXES or not self.objects):
            raise UsageError("names of classes of images with boxes", where="[data] objects",
                             found=repr(list(self.objects)), expected="one or more, with boxes", fix="leave it out")
        if self.regions is not None and (self.name != "folder" or self.work not in OF_BOXES):
            raise UsageError("a file of regions of images with boxes", where="[data] regions", found=self.regions,
                             expected='name = "folder" and task = "detection"', fix="leave it out, or say so")
        if self.boxes is not None and (self.name != "folder" or self.work not in OF_BOXES):
            raise UsageError("a key of images with boxes", where="[data] boxes", found=self.boxes,
                             expected='name = "folder" and task = "detection"', fix="leave it out, or say so")
        if self.boxes is not None and self.boxes not in get_args(BoxKind):
            raise unknown("format of boxes", self.boxes, get_args(BoxKind), where="[data] boxes")
        limits = {"batch_size": (self.batch_size, 1, 2**20),
                  "validation": (self.validation, 0.001, 0.9), "mixup": (self.mixup, 0, 100),
                  "cutmix": (self.cutmix, 0, 100), "limit": (self.limit, 1, 2**62),
                  "workers": (None if self.workers == "auto" else self.workers, 0, 1024),
                  "max_pixels": (self.max_pixels, 1, 2**40), "window": (self.window, 1, 2**20),
                  "horizon": (self.horizon, 1, 2**20), "gap": (self.gap, 0, 2**20), "fold": (self.fold, 0, 1000)}
        if self.labels is not None and self.name in ("folder", "imagenet100"):
            raise UsageError("the folders say what the labels are", where="[data] labels", found=self.labels,
                             fix="move the images, or leave it out")
        sides = self.image_size if isinstance(self.image_size, tuple) else (self.image_size,)
        crops = self.crop if isinstance(self.crop, tuple) else (self.crop,)
        for field, (value, low, high) in [*limits.items(), *(("image_size", (side, 8, 4096)) for side in sides),
                                          *(("crop", (side, 8, 4096)) for side in crops)]:
            if value is not None and not low <= value <= high:
                raise UsageError("a setting out of range", where=f"[data] {field}", found=value,
                                 expected=f"{low} .. {high}")

    def _check_kind(self) -> None:
        """What goes with images, with series, with panels, and with users."""
        policies = (("none", "jitter") if self.name in SERIES else ("none",) if self.name in (*PANELS, *TEXTS) else
                    get_args(Policy))
        if self.augment is not None and self.augment not in policies:
            raise unknown("augmentation", self.augment, policies, where="[data] augment")
        if self.by is not None and (self.by not in get_args(By) or self.name not in SERIES):
            raise UsageError("rows that cannot be held out so", where="[data] by", found=repr(self.by),
                             expected='"subject", for series alone')
        given = [key for key, field in type(self).__dataclass_fields__.items() if vars(self)[key] != field.default]
        of_images = [key for key in given if key in OF_IMAGES]
        if self.name in NO_PICTURES and of_images:
            raise UsageError("what images alone have", where=f"[data] {of_images[0]}", found=vars(self)[of_images[0]],
                             fix="leave it out")
        self._check_users([key for key in given if key in ONLY_INTERACTIONS], [key for key in given
                                                                              if key in NOT_OF_USERS])
        self._check_panel()
        check_texts(self, [key for key in given if key in TEXT_KEYS], given)
        of_pairs = [key for key in given if key in OF_PAIRS]
        if of_pairs and self.work != "fusion":
            raise UsageError("a key of pairs of images", where=f"[data] {of_pairs[0]}", found=vars(self)[of_pairs[0]],
                             expected='name = "pairs", or name = "folder" and task = "fusion"', fix="leave it out")
        if self.shards is not None:
            self._check_shards(self.shards)

    def _check_shards(self, given: dict[str, float]) -> None:
        """Rows are dealt out by class, and no row is mixed with another device's."""
        shards_of(given)
        if self.work != "classification":
            raise UsageError("rows that are not dealt out by classes", where="[data] shards", found=f"task {self.work}",
                             expected="classification")
        for key, rest in (("mixup", 0.0), ("cutmix", 0.0), ("balance", "none"), ("unlabelled", False)):
            if vars(self)[key] != rest:
                raise UsageError("a key that shards do not go with", where=f"[data] {key}", found=vars(self)[key],
                                 fix="leave it out, or shards")

    def _check_panel(self) -> None:
        """What panels need, and what they alone have."""
        given = [key for key in OF_PANELS if vars(self)[key] != type(self).__dataclass_fields__[key].default]
        if self.name == "table":
            given = [key for key in given if key not in OF_TABLES]
        if self.image is not None and (self.name != "table" or self.inputs):
            raise UsageError("a column of images, for a table without other columns that are known",
                             where="[data] image", found=self.image, expected='name = "table", and no inputs')
        if self.name not in PANELS and given:
            raise UsageError("what panels alone have", where=f"[data] {given[0]}", found=vars(self)[given[0]],
                             expected='name = "panel"', fix="leave it out")
        if self.name not in (*PANELS, "table"):
            return
        if self.balance != "none" or self.unlabelled:
            key = "unlabelled" if self.unlabelled else "balance"
            raise UsageError("what sets of classes alone have", where=f"[data] {key}", fix="leave it out")
        if self.name in ("panel", "table") and not self.targets:
            raise UsageError(f"a {self.name} needs the columns to forecast or to learn", where="[data] targets",
                             fix='targets = ["volume"]')
        for key in ("targets", "inputs", "log"):
            names = vars(self)[key] or ()
            if len(set(names)) < len(names) or "" in names:
                raise UsageError("columns that are not each named once", where=f"[data] {key}", found=list(names))

    def _check_users(self, own: Sequence[str], others: Sequence[str]) -> None:
        """Keys of users with items, and keys that these cannot have."""
        refused = others if self.name in OF_USERS else own
        if refused:
            raise UsageError("a key that these data do not have", where=f"[data] {refused[0]}",
                             found=vars(self)[refused[0]], fix="leave it out")
        for key, kind in (("split", Split), ("doubled", Doubled)):
            if vars(self)[key] is not None and vars(self)[key] not in get_args(kind):
                raise unknown("choice", vars(self)[key], get_args(kind), where=f"[data] {key}")
        known = COLUMNS if self.name in OF_USERS else TEXT_COLUMNS if self.name in TEXTS else ()
        for name in self.columns or ():
            if name not in known:
                raise unknown("column", name, known, where="[data] columns")
        for key, low in (("core", 1), ("groups", 1)):
            if vars(self)[key] is not None and vars(self)[key] < low:
                raise UsageError("a setting out of range", where=f"[data] {key}", found=vars(self)[key],
                                 expected=f"{low} or more")

    def _check_masks(self) -> None:
        """Refuse keys of masks that cannot be meant."""
        key = "mask_values" if self.mask_values is not None else "ignore"
        if self.name != "folder" or self.work != "segmentation":
            raise UsageError("a key of images and masks", where=f"[data] {key}",
                             expected='name = "folder" and task = "segmentation"', fix="leave it out, or say so")
        values = {str(value): name for value, name in (self.mask_values or {}).items()}
        object.__setattr__(self, "mask_values", values or None)
        for key, found in {"mask_values": [*values], "ignore": [*map(str, self.ignored)]}.items():
            wrong = [value for value in found if not _is_value(value)]
            if wrong:
                raise UsageError("values of masks that cannot be", where=f"[data] {key}", found=", ".join(wrong),
                                 expected=f"whole numbers, 0 .. {LARGEST_VALUE}")
        both = [value for value in values if int(value) in self.ignored]
        if both:
            raise UsageError("a value of masks that is a class and does not count", where="[data] ignore",
                             found=", ".join(both), fix="leave it out of `ignore`, or of `mask_values`")
        if self.mask_values is not None and not 2 <= len(set(values.values())) <= MOST_CLASSES:
            raise UsageError("too few or too many classes", where="[data] mask_values",
                             found=f"{len(set(values.values()))} names", expected=f"2 .. {MOST_CLASSES}")


def _is_value(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text) <= LARGEST_VALUE and text == str(int(text))
