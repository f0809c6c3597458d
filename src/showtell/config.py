"""The recipe: all that decides a training run, as frozen, typed values. `recipe.py` reads them from TOML."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Augmentation = Literal["none", "light", "strong", "aerial"]

# Keys of a phase that do nothing without encoder_from.
OF_THE_CNN = ("encoder_lr", "encoder_lr_decay", "unfreeze_every")

# Keys of the decoder that shape its training and not its weights.
OF_TRAINING = ("dropout", "variational")

MOST_UPRIGHT_VIEWS = 4  # where pictures have an up


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class DataConfig(_Section):
    """Where the samples come from and how captions become tokens."""

    path: str = Field("flickr8k", description="the data set; --data on the command line")
    val: float = Field(0.1, gt=0, lt=1, description="share of images, where the data has no split of its own")
    test: float = Field(0.1, ge=0, lt=1, description="as val")
    split_seed: int = Field(0, description="of the draw of both")
    vocabulary: Literal["word", "bpe"] = Field("word", description="what a token is: a word, or a subword")
    min_count: int = Field(5, ge=1, description="rarer words become <unk> (word)")
    vocabulary_size: int = Field(8000, ge=10, description="number of subwords (bpe)")
    max_tokens: int = Field(30, ge=2, description="longer captions are cut for training")
    cache: str = Field("", description="folder of the feature cache; empty: one per encoder below the user's cache")


class EncoderConfig(_Section):
    """The CNN. Neither its normalisation nor its input size is guessed: both come with the weights."""

    name: str | tuple[str, ...] = Field(
        "inception_v3.tf_in1k", description="a timm model; a list: several, their features side by side"
    )
    layer: str | tuple[str, ...] = Field(
        "",
        description="a module's name, e.g. Mixed_7a; empty: the last one before the classifier; a list: several layers, "
        "or one for each name",
    )
    pooled: Literal[False, True, "both"] = Field(
        False, description="true: one vector an image (1×1×F); false: the grid (R×F); both: the grid and the vector"
    )
    pretrained: bool = Field(
        True, description="weights of timm's hub, or of --encoder-weights; false: none, it learns from scratch"
    )
    image_size: int = Field(0, ge=0, description="side of the square input in pixels; 0: the weights' own")
    crop: Literal["", "center", "squash"] = Field("", description="empty: the weights' own; squash: the whole frame")

    def names(self) -> tuple[str, ...]:
        """The models, each once."""
        return (self.name,) if isinstance(self.name, str) else tuple(dict.fromkeys(self.name))

    def describe(self, mark: str = "") -> str:
        """The encoder in a few words; `mark` stands around the models' names."""
        names = " + ".join(f"{mark}{name}{mark}" for name in self.names())
        layers = (self.layer,) if isinstance(self.layer, str) else self.layer
        pooled = {False: "grid", True: "pooled", "both": "grid and pooled"}[self.pooled]
        return f"{names} ({' + '.join(layer or 'last layer' for layer in layers)}, {pooled})"


class DecoderConfig(_Section):
    """What tells the caption. A key that the chosen decoder does not have may not be set, `attention` excepted."""

    name: str = Field("attention", description="one of showtell.model.decoders, e.g. lstm or attention")
    embedding: int = Field(512, ge=1, description="size of a word's vector and of a region's")
    hidden: int = Field(
        512, ge=1, description="size of the LSTM's state; transformer: width of its feed-forward network"
    )
    layers: int = Field(1, ge=1, le=8, description="lstm, transformer")
    attention: int = Field(512, ge=1, description="width of keys and queries")
    attention_kind: Literal["additive", "dot"] = Field("additive", description="attention, adaptive, updown")
    heads: int = Field(0, ge=0, description="of dot-product attention; 0: eight, and one for additive attention")
    inject: Literal["first", "state", "every"] = Field(
        "first", description="lstm: the image is the first input, the initial state, or part of every input"
    )
    dropout: float = Field(0.5, ge=0, lt=1, description="of features, words and the output's input")
    variational: bool = Field(False, description="dropout drops the same numbers at all steps of a caption")
    tied: bool = Field(
        False, description="the output layer shares the word embeddings (needs embedding == hidden for lstm)"
    )


class PhaseConfig(_Section):
    """A stretch of training. Without `encoder_from` the CNN is left alone and the feature cache is used."""

    epochs: int = Field(20, ge=1, description="at most; patience may end the phase before")
    min_steps: int = Field(
        0,
        ge=0,
        description="where images are few, the phase has as many epochs as have so many steps, ten times its own at most, and patience "
        "in proportion; epochs that are set on the command line put it to 0",
    )
    lr: float = Field(1e-3, gt=0, description="the decoder's highest learning rate")
    encoder_from: str = Field("", description="train the CNN from this module on, e.g. Mixed_6e")
    encoder_lr: float = Field(1e-5, gt=0, description="of the CNN's last block")
    encoder_lr_decay: float = Field(
        1.0, gt=0, le=1, description="each block of the CNN learns by this factor slower than the one after it"
    )
    unfreeze_every: int = Field(
        0,
        ge=0,
        description="epochs after which one more block of the CNN begins to learn, the last one first; 0: all at once",
    )
    batch_images: int = Field(0, ge=0, description="0: the one of [train]")
    augment: Augmentation = Field(
        "light",
        description="where the images are read (CNN + LSTM), and of cached_views; light: crops and mirror images; strong: closer "
        "crops, and light and contrast that vary; aerial: light, and turned by quarters, for pictures without an up",
    )
    cached_views: int = Field(
        1,
        ge=1,
        le=32,
        description="where features are cached (the LSTM alone): ways in which each training image is seen, the image as it is and "
        "more as augment says, every second one mirrored; one is drawn each epoch, each costs an encoding. With encoder_from, 2 or "
        "more cache what comes out below the trained layers",
    )
    scheduled_sampling: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the words fed that are the model's own, at the phase's end; it grows from 0",
    )
    objective: Literal["cross-entropy", "self-critical"] = Field(
        "cross-entropy", description="say what people wrote, or what earns a reward"
    )
    samples: int = Field(5, ge=1, le=100, description="captions drawn for each image (self-critical)")
    temperature: float = Field(
        1.0,
        gt=0,
        description="captions are drawn from, and learned as, the softmax of logits / temperature (self-critical)",
    )
    baseline: Literal["others", "greedy"] = Field(
        "others", description="what a caption has to beat: the image's other samples, or its greedy caption"
    )
    reward: dict[Literal["cider_d", "bleu_4"], float] = Field(
        {"cider_d": 1.0}, min_length=1, description="weights; CIDEr-D counts 0 to 10, BLEU-4 0 to 1"
    )

    @field_validator("augment", mode="before")
    @classmethod
    def _level(cls, value: Any) -> Any:
        """Bundles of earlier versions say true or false."""
        return {True: "light", False: "none"}[value] if isinstance(value, bool) else value

    @model_validator(mode="after")
    def _check(self) -> PhaseConfig:
        if self.cached_views > 1 and self.augment == "none":
            raise ValueError(
                "cached_views needs augment to be light, strong or aerial; with none, every view would be the same"
            )
        if self.baseline == "others" and self.samples < 2 and self.objective == "self-critical":
            raise ValueError("baseline 'others' needs at least 2 samples; set baseline to 'greedy'")
        if self.objective == "self-critical" and self.scheduled_sampling:
            raise ValueError(
                "scheduled_sampling goes with cross-entropy; a self-critical phase feeds its own words anyway"
            )
        if min(self.reward.values()) < 0 or not any(self.reward.values()):
            raise ValueError("the weights of reward have to be 0 or more, and one of them more than 0")
        return self


class TrainConfig(_Section):
    """How the weights are found."""

    start: str = Field(
        "",
        description="a captioner to begin with, a bundle or user/name on the hub: its CNN, decoder and words; --start on the command line",
    )
    seed: int = Field(0, ge=0, lt=2**32, description="of first weights, order, views, dropout and drawn captions")
    batch_images: int = Field(
        32, ge=1, description="images a batch; each brings all of its captions, up to captions_per_image"
    )
    captions_per_image: int = Field(5, ge=1, description="at most; an image with more comes several times an epoch")
    accumulate: int = Field(1, ge=1, description="batches whose gradients are averaged for a step")
    precision: Literal["auto", "no", "bf16", "fp16"] = Field("auto", description="auto: bf16 where it is native")
    weight_decay: float = Field(0.0, ge=0, description="of AdamW; not of biases and norms")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="probability that is spread over all words")
    doubly_stochastic: float = Field(0.0, ge=0, description="weight of the loss by which attention covers the image")
    word_dropout: float = Field(0.0, ge=0, lt=1, description="share of the words fed that are hidden as <unk>")
    warmup: int = Field(0, ge=0, description="steps of linear warm-up in each phase, a quarter of them at most")
    cosine: bool = Field(True, description="the learning rate falls to a twentieth along a half cosine in each phase")
    clip: float = Field(5.0, ge=0, description="largest norm of the gradient; 0: unlimited")
    ema: float = Field(0.0, ge=0, lt=1, description="decay of the averaged weights that are scored and kept; 0: none")
    patience: int = Field(5, ge=1, description="epochs without a better validation CIDEr that end a phase")
    max_phases: int = Field(0, ge=0, description="how many of the phases are run; 0: all")
    choose_decoding: bool = Field(
        False,
        description="after the last epoch, try some decodings on the validation split and keep the best in the bundle",
    )
    workers: int = Field(
        0, ge=0, description="threads that decode images; 0: one for each core that the process may use, eight at most"
    )
    cuda_graphs: bool = Field(
        True,
        description="on a GPU, the kernels of a step are recorded once for each shape and replayed, where decoder and phase allow it",
    )
    gradient_checkpointing: bool = Field(
        False,
        description="what the trained layers of the CNN compute is not kept for the gradient but computed again: less memory, more time",
    )
    checkpoint_steps: int = Field(
        0, ge=0, description="also write a checkpoint after so many steps; 0: after each epoch"
    )
    trackers: tuple[str, ...] = Field(
        (),
        description='services that are told of each epoch as well, e.g. ["wandb", "mlflow"]: any that Accelerate knows and that is installed',
    )
    phases: tuple[PhaseConfig, ...] = Field(
        (PhaseConfig(),), min_length=1, description="one after the other, each from the best epoch before it"
    )


class SearchConfig(_Section):
    """Decoding defaults: used for validation, stored in the bundle."""

    beam: int = Field(
        3, ge=1, le=100, description="captions that are kept at each step; 1: the likeliest word each time"
    )
    length_penalty: float = Field(
        1.0, ge=0, description="captions are ranked by log-probability / length to this power"
    )
    max_length: int = Field(25, ge=1, description="longest caption, in tokens")
    no_repeat_ngram: int = Field(0, ge=0, description="sequences of so many tokens occur once at most; 0: as they come")
    consensus: int = Field(
        0, ge=0, le=100, description="candidates ranked by what they are worth to each other; 0: none"
    )
    views: int = Field(
        1,
        ge=1,
        le=8,
        description="1; 2: also mirrored; 3, 4: also another crop, and that mirrored; 3 to 8 where a phase's augment is aerial: also "
        "turned by quarters, and that mirrored",
    )

    def one_view(self) -> SearchConfig:
        """The same decoding of features that are cached or encoded once: of one view, whatever the bundle looks at."""
        return self.model_copy(update={"views": 1})

    def describe(self) -> str:
        """The decoding, as a protocol names it; what is missing in it is as by default."""
        usual = type(self).model_fields["max_length"].default
        more = [f"max length {self.max_length}"] * (self.max_length != usual)
        more += [f"no {self.no_repeat_ngram}-gram twice"] * (self.no_repeat_ngram > 0)
        more += [f"consensus of {self.consensus}"] * (self.consensus > 1) + [f"{self.views} views"] * (self.views > 1)
        return ", ".join([f"beam {self.beam}", f"length normalisation {self.length_penalty:g}", *more])


class Recipe(_Section):
    """A whole run, resolved: printed, saved with the run and saved in the bundle."""

    name: str = "recipe"
    data: DataConfig = DataConfig()
    encoder: EncoderConfig = EncoderConfig()
    decoder: DecoderConfig = DecoderConfig()
    train: TrainConfig = TrainConfig()
    search: SearchConfig = SearchConfig()

    def trained_on(self, data: Path) -> Recipe:
        """The recipe with another data set, wherever it is read from."""
        return self.model_copy(update={"data": self.data.model_copy(update={"path": str(data.resolve())})})

    def given_away(self) -> Recipe:
        """The recipe as others may read it: it names no folders of this machine, and of the data set its last part alone."""
        kept = {"path": PureWindowsPath(self.data.path).name, "cache": ""}  # which parts at both separators
        start = self.train.start
        on_the_hub = not (PurePosixPath(start).is_absolute() or PureWindowsPath(start).is_absolute())
        train = self.train.model_copy(update={"start": start if on_the_hub else PureWindowsPath(start).name})
        return self.model_copy(update={"data": self.data.model_copy(update=kept), "train": train})

    def turns(self) -> bool:
        """Whether training turns pictures: then the captioner knows what is seen from above, in any direction."""
        return any(phase.augment == "aerial" for phase in self.phases())

    def phases(self) -> tuple[PhaseConfig, ...]:
        """The phases that will be run, `train.max_phases` applied."""
        return self.train.phases[: self.train.max_phases or None]

    def lines(self) -> list[str]:
        """What was chosen, a line a section and a line a phase that will be run: names, lengths, rates, and what has not its
        default."""
        tables: dict[str, _Section] = {
            "[data]": self.data, "[encoder]": self.encoder, "[decoder]": self.decoder, "[train]": self.train, "[search]": self.search,
        }  # fmt: skip
        tables |= {f"[phase {number}]": phase for number, phase in enumerate(self.phases(), start=1)}
        return [f"{name:10} {_chosen(table)}" for name, table in tables.items()]


def _chosen(table: _Section) -> str:
    values, fields = table.model_dump(mode="json", exclude={"phases"}), type(table).model_fields
    always = {"name", "epochs", "lr"}
    said = {key: value for key, value in values.items() if key in always or getattr(table, key) != fields[key].default}
    return " ".join(f"{key}={json.dumps(value)}" for key, value in said.items()) or "as by default"
