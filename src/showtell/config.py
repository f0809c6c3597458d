"""The recipe: everything that determines a training run, as frozen, typed values. `recipe.py` reads them from TOML."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

Augmentation = Literal["none", "light", "strong", "aerial"]

# Keys of a phase that do nothing without encoder_from.
OF_THE_CNN = ("encoder_lr", "encoder_lr_decay", "unfreeze_every")

# Keys of a phase that do nothing for its objective.
IDLE_FOR = {
    "cross-entropy": ("samples", "temperature", "baseline", "reward"),
    "self-critical": (),
    "distillation": ("baseline", "reward"),
}

# Keys of the decoder that affect its training but not the shape of its weights.
OF_TRAINING = ("dropout", "variational")

MOST_UPRIGHT_VIEWS = 4  # for pictures that have an up


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """pydantic reads true as 1."""
        number = cls.model_fields[str(info.field_name)].annotation in (int, float)
        if number and isinstance(value, bool):
            raise PydanticCustomError("number", "Expected a number")
        return value


class DataConfig(_Section):
    """Where the samples come from and how captions become tokens."""

    path: str = Field("flickr8k", description="the data set; --data on the command line")
    val: float = Field(
        0.1, gt=0, lt=1, description="share of images for validation, if the data has no split of its own"
    )
    test: float = Field(0.1, ge=0, lt=1, description="share of images for testing, likewise")
    split_seed: int = Field(0, description="seed of that draw")
    vocabulary: Literal["word", "bpe"] = Field("word", description="tokens are words, or subwords")
    min_count: int = Field(5, ge=1, description="word: rarer words become <unk>")
    vocabulary_size: int = Field(8000, ge=10, description="bpe: number of subwords")
    max_tokens: int = Field(30, ge=2, description="longer captions are cut off in training")
    cache: str = Field("", description="folder of the feature cache; empty: one per encoder in the user's cache")


class EncoderConfig(_Section):
    """The CNN. Neither its normalisation nor its input size is guessed: both come with the weights."""

    name: str | tuple[str, ...] = Field(
        "inception_v3.tf_in1k", description="a timm model; a list: several models, their features side by side"
    )
    layer: str | tuple[str, ...] = Field(
        "",
        description="the module whose output is used, e.g. Mixed_7a; empty: the last before the classifier; a list: several layers, "
        "or one for each name",
    )
    pooled: Literal[False, True, "both"] = Field(
        False, description="true: one vector per image (1×1×F); false: the grid (R×F); both: the grid and the vector"
    )
    pretrained: bool = Field(
        True, description="start from timm's weights, or those of --encoder-weights; false: learn from scratch"
    )
    image_size: int = Field(
        0, ge=0, description="side of the square input in pixels; 0: the size that the weights were made for"
    )
    crop: Literal["", "center", "squash"] = Field(
        "", description="empty: the crop that the weights were made for; squash: the whole picture"
    )

    @field_validator("name", "layer", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        listed = isinstance(value, list | tuple) and value and all(isinstance(each, str) for each in value)
        if not isinstance(value, str) and not listed:
            raise PydanticCustomError("names", "Expected text, or a list with at least one")
        return value

    def names(self) -> tuple[str, ...]:
        """The models, each once."""
        return (self.name,) if isinstance(self.name, str) else tuple(dict.fromkeys(self.name))

    def describe(self, mark: str = "") -> str:
        """The encoder in a few words; `mark` is put around the models' names."""
        names = " + ".join(f"{mark}{name}{mark}" for name in self.names())
        layers = (self.layer,) if isinstance(self.layer, str) else self.layer
        pooled = {False: "grid", True: "pooled", "both": "grid and pooled"}[self.pooled]
        return f"{names} ({' + '.join(layer or 'last layer' for layer in layers)}, {pooled})"


class DecoderConfig(_Section):
    """The caption model. Keys that the chosen decoder does not take may not be set, except `attention`."""

    name: str = Field("attention", description="attention, adaptive, updown, lstm or transformer")
    embedding: int = Field(512, ge=1, description="size of word and region vectors")
    hidden: int = Field(512, ge=1, description="size of the LSTM state; transformer: width of the feed-forward layers")
    layers: int = Field(1, ge=1, le=8, description="number of layers (lstm, transformer)")
    attention: int = Field(512, ge=1, description="size of attention keys and queries")
    attention_kind: Literal["additive", "dot"] = Field(
        "additive", description="scoring function (attention, adaptive, updown)"
    )
    heads: int = Field(0, ge=0, description="attention heads; 0: eight for dot-product attention, one for additive")
    inject: Literal["first", "state", "every"] = Field(
        "first", description="lstm: the image is the first input, sets the initial state, or is part of every input"
    )
    dropout: float = Field(0.5, ge=0, lt=1, description="applied to features, words and the input of the output layer")
    variational: bool = Field(False, description="variational dropout: the same mask at all steps of a caption")
    tied: bool = Field(
        False, description="the output layer shares the word embeddings (lstm: needs embedding == hidden)"
    )


class PhaseConfig(_Section):
    """A stretch of training. Without `encoder_from` the CNN stays frozen and its features come from the feature cache."""

    epochs: int = Field(20, ge=1, description="at most; patience may end the phase earlier")
    min_steps: int = Field(
        0,
        ge=0,
        description="with few images, adds epochs until the phase has this many steps (at most ten times `epochs`), with patience in "
        "proportion; setting epochs on the command line sets it to 0",
    )
    lr: float = Field(1e-3, gt=0, description="peak learning rate of the decoder")
    encoder_from: str = Field("", description="train the CNN from this module on, e.g. Mixed_6e")
    encoder_lr: float = Field(1e-5, gt=0, description="peak learning rate of the CNN's last block")
    encoder_lr_decay: float = Field(
        1.0, gt=0, le=1, description="each block's learning rate is this factor times that of the block after it"
    )
    unfreeze_every: int = Field(
        0,
        ge=0,
        description="unfreeze one more block of the CNN after this many epochs, starting from the last; 0: all at once",
    )
    batch_images: int = Field(0, ge=0, description="images per batch in this phase; 0: as in [train]")
    augment: Augmentation = Field(
        "light",
        description="how training images vary where they are read (CNN + LSTM) and in cached_views; light: crops and mirror images; "
        "strong: closer crops, varied brightness and contrast; aerial: as light, and quarter turns, for pictures from above",
    )
    cached_views: int = Field(
        1,
        ge=1,
        le=32,
        description="views of each training image in the feature cache: the image itself and augmented ones, every second mirrored; "
        "each epoch draws one per image, each costs one encoding. With encoder_from, 2 or more cache the input of the trained "
        "layers",
    )
    scheduled_sampling: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of input words that are the model's own at the end of the phase; it grows from 0",
    )
    objective: Literal["cross-entropy", "self-critical", "distillation"] = Field(
        "cross-entropy",
        description="imitate the captions, maximise the reward of generated ones, or imitate other captioners (train.teachers)",
    )
    samples: int = Field(5, ge=1, le=100, description="self-critical, distillation: captions drawn per image")
    temperature: float = Field(
        1.0,
        gt=0,
        description="self-critical: captions are drawn from, and trained as, softmax(logits / temperature); distillation: drawn from it",
    )
    baseline: Literal["others", "greedy"] = Field(
        "others",
        description="self-critical: what a caption has to beat, the mean of the image's other samples or its greedy caption",
    )
    reward: dict[Literal["cider_d", "bleu_4"], float] = Field(
        {"cider_d": 1.0},
        min_length=1,
        description="self-critical: weights of the metrics, one that is left out has none; CIDEr-D ranges from 0 to 10, BLEU-4 from 0 to 1",
    )

    def varies(self) -> bool:
        """Whether training images are seen in several ways, as `augment` says."""
        return bool(self.encoder_from) or self.cached_views > 1

    def idle(self) -> dict[str, str]:
        """The keys that do nothing in this phase, and why, with what to do."""
        found = dict.fromkeys(IDLE_FOR[self.objective], f"a {self.objective} phase has no use for it; leave it out")
        if not self.encoder_from:
            found |= dict.fromkeys(OF_THE_CNN, "the phase trains no CNN; set its encoder_from too, or leave it out")
        if not self.varies() and self.augment != "none":
            found["augment"] = (
                "each image is seen in one view; set cached_views to 2 or more or encoder_from, or leave it out"
            )
        return found

    @field_validator("reward", mode="before")
    @classmethod
    def _weights(cls, value: Any) -> Any:
        if isinstance(value, dict) and any(isinstance(weight, bool) for weight in value.values()):
            raise PydanticCustomError("number", "Expected numbers as weights")
        return value

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
        if self.objective != "cross-entropy" and self.scheduled_sampling:
            raise ValueError(
                f"scheduled_sampling goes with cross-entropy; a {self.objective} phase feeds its own words anyway"
            )
        if self.objective == "distillation" and self.encoder_from:
            raise ValueError("a distillation phase leaves the CNN as it is; leave encoder_from out")
        if min(self.reward.values()) < 0 or not any(self.reward.values()):
            raise ValueError("the weights of reward have to be 0 or more, and one of them more than 0")
        return self


class TrainConfig(_Section):
    """How the weights are found."""

    start: str = Field(
        "",
        description="captioner to start from, a bundle or user/name on the hub: its CNN, decoder and words; --start on the command line",
    )
    teachers: tuple[str, ...] = Field(
        (),
        description="captioners whose words distillation phases imitate, bundles or user/name on the hub; --teacher on the command line",
    )
    seed: int = Field(
        0, ge=0, lt=2**32, description="seed of initial weights, order, views, dropout and drawn captions"
    )
    batch_images: int = Field(
        32, ge=1, description="images per batch; each brings its captions, up to captions_per_image"
    )
    captions_per_image: int = Field(5, ge=1, description="at most; an image with more comes several times per epoch")
    accumulate: int = Field(1, ge=1, description="batches whose gradients are averaged for one step")
    precision: Literal["auto", "no", "bf16", "fp16"] = Field(
        "auto", description="auto: bf16 where the device supports it natively"
    )
    weight_decay: float = Field(0.0, ge=0, description="of AdamW; biases and norms are left out")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="probability spread over all words")
    doubly_stochastic: float = Field(0.0, ge=0, description="weight of the loss that makes attention cover the image")
    word_dropout: float = Field(0.0, ge=0, lt=1, description="share of input words replaced by <unk>")
    warmup: int = Field(
        0, ge=0, description="optimizer steps of linear warm-up in each phase, at most a quarter of the phase"
    )
    cosine: bool = Field(True, description="in each phase the learning rate falls to a twentieth along a half cosine")
    clip: float = Field(5.0, ge=0, description="gradients are clipped to this norm; 0: not clipped")
    ema: float = Field(
        0.0, ge=0, lt=1, description="decay of the averaged weights, which are scored and kept; 0: no averaging"
    )
    patience: int = Field(5, ge=1, description="a phase ends after this many epochs without a better validation CIDEr")
    max_phases: int = Field(0, ge=0, description="run only the first phases; 0: all")
    choose_decoding: bool = Field(
        False,
        description="after the last epoch, try several decodings on the validation split and keep the best in the bundle",
    )
    workers: int = Field(0, ge=0, description="threads that decode images; 0: one per available core, at most eight")
    cuda_graphs: bool = Field(
        True,
        description="on a GPU, record the kernels of a step once per shape and replay them, where decoder and phase allow it",
    )
    gradient_checkpointing: bool = Field(
        False,
        description="recompute the activations of the CNN's trained layers instead of keeping them: less memory, more time",
    )
    checkpoint_steps: int = Field(
        0,
        ge=0,
        description="also write a checkpoint after this many batches, once the optimizer has stepped; 0: only after each epoch",
    )
    trackers: tuple[str, ...] = Field(
        (),
        description='experiment trackers, e.g. ["wandb", "mlflow"]: any that Accelerate knows, if its package is installed',
    )
    phases: tuple[PhaseConfig, ...] = Field(
        (PhaseConfig(),), min_length=1, description="run one after the other, each from the best epoch so far"
    )

    @field_validator("teachers", "trackers", mode="before")
    @classmethod
    def _one(cls, value: Any) -> Any:
        """A single name is a list of one."""
        return (value,) if isinstance(value, str) else value


class SearchConfig(_Section):
    """Decoding defaults: used for validation, stored in the bundle."""

    beam: int = Field(3, ge=1, le=100, description="captions kept at each step; 1: greedy")
    length_penalty: float = Field(
        1.0, ge=0, description="captions are ranked by log-probability / length ** this, up to 10"
    )
    max_length: int = Field(25, ge=1, description="longest caption, in tokens")
    no_repeat_ngram: int = Field(0, ge=0, description="no sequence of this many tokens occurs twice; 0: no such rule")
    consensus: int = Field(
        0, ge=0, le=100, description="number of candidates that are ranked by how well they agree; 0: no consensus"
    )
    views: int = Field(
        1,
        ge=1,
        le=8,
        description="1: the image; 2: also mirrored; 3, 4: also another crop, and that mirrored; 3 to 8 if a phase's augment is "
        "aerial: also quarter turns, and those mirrored",
    )

    def one_view(self) -> SearchConfig:
        """The same decoding with one view, for features that are cached or encoded once."""
        return self.model_copy(update={"views": 1})

    def describe(self) -> str:
        """The decoding as a protocol names it; anything not named has its default."""
        return ", ".join([f"beam {self.beam}", f"length normalisation {self.length_penalty:g}", *self.further()])

    def further(self) -> list[str]:
        """What `describe` names beside beam and length normalisation."""
        usual = type(self).model_fields["max_length"].default
        more = [f"max length {self.max_length}"] * (self.max_length != usual)
        more += [f"no {self.no_repeat_ngram}-gram twice"] * (self.no_repeat_ngram > 0)
        more += [f"consensus of {self.consensus}"] * (self.consensus > 1) + [f"{self.views} views"] * (self.views > 1)
        return more


class Recipe(_Section):
    """A whole run, resolved: printed, saved with the run, and saved in the bundle."""

    name: str = "recipe"
    data: DataConfig = DataConfig()
    encoder: EncoderConfig = EncoderConfig()
    decoder: DecoderConfig = DecoderConfig()
    train: TrainConfig = TrainConfig()
    search: SearchConfig = SearchConfig()

    def trained_on(self, data: Path) -> Recipe:
        """The same recipe for the data set at `data`."""
        return self.model_copy(update={"data": self.data.model_copy(update={"path": str(data.resolve())})})

    def seeded(self, seed: int) -> Recipe:
        """The same recipe with another seed, which changes what is drawn in training and not how data are split."""
        return self.model_copy(update={"train": self.train.model_copy(update={"seed": seed})})

    def given_away(self) -> Recipe:
        """The recipe for others to read: no folder of this machine, and only the last part of the data set's path."""
        kept = {"path": PureWindowsPath(self.data.path).name, "cache": ""}  # splits at both separators
        others = {"start": _name(self.train.start), "teachers": tuple(map(_name, self.train.teachers))}
        train = self.train.model_copy(update=others)
        return self.model_copy(update={"data": self.data.model_copy(update=kept), "train": train})

    def turns(self) -> bool:
        """Whether training rotates pictures, so that the captioner has no notion of up."""
        return any(phase.augment == "aerial" and phase.varies() for phase in self.phases())

    def distils(self) -> bool:
        """Whether a phase learns from teachers, even one that `train.max_phases` leaves for later."""
        return any(phase.objective == "distillation" for phase in self.train.phases)

    def phases(self) -> tuple[PhaseConfig, ...]:
        """The phases that will run: the first `train.max_phases`."""
        return self.train.phases[: self.train.max_phases or None]

    def lines(self) -> list[str]:
        """One line per section and per phase that will run: names, epochs, rates, and everything that differs from the
        defaults."""
        tables: dict[str, _Section] = {
            "[data]": self.data, "[encoder]": self.encoder, "[decoder]": self.decoder, "[train]": self.train, "[search]": self.search,
        }  # fmt: skip
        tables |= {f"[phase {number}]": phase for number, phase in enumerate(self.phases(), start=1)}
        return [f"{name:10} {_chosen(table)}" for name, table in tables.items()]


def _name(captioner: str) -> str:
    """A captioner's name on the hub, or its folder's without the path."""
    is_folder = PurePosixPath(captioner).is_absolute() or PureWindowsPath(captioner).is_absolute()
    return PureWindowsPath(captioner).name if is_folder else captioner


def _chosen(table: _Section) -> str:
    values, fields = table.model_dump(mode="json", exclude={"phases"}), type(table).model_fields
    always = {"name", "epochs", "lr"}
    said = {key: value for key, value in values.items() if key in always or getattr(table, key) != fields[key].default}
    return " ".join(f"{key}={json.dumps(value)}" for key, value in said.items()) or "as by default"
