"""Stage 1: LoRA teaches an LLM to read SMILES, by the next token and by what chemists compute of the molecule."""

import json
import math
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional
from tqdm import tqdm
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from kflm2.errors import LLMError, SettingError
from kflm2.featurize.llm import quiet
from kflm2.files import atomic
from kflm2.finetune_settings import FinetuneSettings
from kflm2.model import Standardize
from kflm2.trainers.lessons import IGNORE, Collator, Lessons, tokens_and_labels

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

HEAD = "knowledge_head.safetensors"
_PAPER_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj"]


class TaughtLLM(nn.Module):
    """A decoder with a LoRA adapter, and the head that predicts descriptors from its pooled states."""

    def __init__(self, llm: "PreTrainedModel", settings: FinetuneSettings, descriptors: int) -> None:
        """Put a fresh adapter on an LLM, which changes nothing yet.

        Args:
            llm: with vocabulary head, its layers cut already.
            settings: see FinetuneSettings.
            descriptors: P; 0 without a head.
        """
        super().__init__()
        from peft import LoraConfig, get_peft_model

        targets: str | list[str] = "all-linear"
        if settings.targets == "paper":
            # a tied head is the token embeddings too: an adapter on one of the two would untie them
            tied = bool(llm.config.tie_word_embeddings)
            targets = _PAPER_TARGETS if tied else [*_PAPER_TARGETS, "lm_head"]
        config = LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            target_modules=targets,
            task_type="CAUSAL_LM",
        )
        self.peft = get_peft_model(llm, config)
        self.head = _head(llm.config.hidden_size, descriptors) if descriptors else None
        self.next_token_weight, self.next_token_every = settings.next_token_weight, settings.next_token_every
        self.knowledge_weight = settings.knowledge_weight
        self.molecules = settings.batch_size * settings.accumulation
        """In an optimizer's step, over all processes."""
        self.step = 0
        """Optimizer's steps made."""
        self.losses: dict[str, float] = {}
        """Of the last batch, each for itself."""

    @property
    def decoder(self) -> "PreTrainedModel":
        """The LLM without its vocabulary head."""
        base: Any = self.peft.get_base_model()
        return base.model

    def forward(
        self,
        input_ids: torch.Tensor,
        labels: torch.Tensor,
        descriptors: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | None = None,
        **_: object,
    ) -> dict[str, torch.Tensor]:
        """Loss of a batch, as its share of the whole step's.

        Args:
            input_ids: (B, T)
            labels: (B, T), IGNORE at padding.
            descriptors: (B, P), where they are learnt.
            num_items_in_batch: labels in the whole step, over accumulation and processes.
        """
        states = self.states(input_ids)
        self.losses = {}
        loss = input_ids.new_zeros((), dtype=torch.float32)
        if self.next_token_weight and self.step % self.next_token_every == 0:
            summed, count = self.surprise(states, labels)
            self.losses["next token"] = (summed / count).item()
            labels_of_step = count if num_items_in_batch is None else num_items_in_batch
            loss = loss + self.next_token_weight * summed / labels_of_step
        if self.head is not None and descriptors is not None:
            each = ((self.head(pooled(states, labels)) - descriptors) ** 2).mean(dim=-1)
            self.losses["descriptors"] = each.mean().item()
            molecules = len(each) if num_items_in_batch is None else self.molecules
            loss = loss + self.knowledge_weight * each.sum() / molecules
        return {"loss": loss}

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """(..., D) states before the final norm to (..., V)."""
        base: Any = self.peft.get_base_model()
        return base.lm_head(base.model.norm(states))

    def surprise(self, states: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Negative log-likelihood of the next tokens, summed, and how many there are."""
        real = labels[:, 1:] != IGNORE
        # the vocabulary head is the costliest map of a small LLM: not for padding
        logits = self.logits(states[:, :-1][real])
        return functional.cross_entropy(logits.float(), labels[:, 1:][real], reduction="sum"), real.sum()

    def states(self, input_ids: torch.Tensor) -> torch.Tensor:
        """(B, T, D) states of the last layer, before the final norm: what stage 2 reads of a middle layer."""
        kept: list[torch.Tensor] = []
        norm: Any = self.decoder.norm
        hook = norm.register_forward_pre_hook(lambda _, args: kept.append(args[0]))
        try:
            # right padding, and a decoder never looks right: no mask is needed
            self.decoder(input_ids=input_ids, use_cache=False)
        finally:
            hook.remove()
        return kept[0]

    @torch.inference_mode()
    def fit_head(self, batch: dict[str, torch.Tensor]) -> None:
        """Learn the scale of the pooled states, whose columns differ by many decades, from one batch."""
        if self.head is not None:
            self.eval()
            scale = self.head[0]
            assert isinstance(scale, Standardize)
            scale.fit(pooled(self.states(batch["input_ids"]), batch["labels"]).float())

    def save(self, folder: Path) -> None:
        """Write the adapter as peft does, and the head beside it."""
        self.peft.save_pretrained(str(folder), save_embedding_layers=False)
        if self.head is not None:
            with atomic(folder / HEAD) as temporary:
                save_file({name: weight.contiguous() for name, weight in self.head.state_dict().items()}, temporary)

    def restore(self, folder: Path) -> None:
        """Take adapter and head from a folder that save wrote."""
        from peft import set_peft_model_state_dict
        from peft.utils import load_peft_weights

        set_peft_model_state_dict(self.peft, load_peft_weights(str(folder), device="cpu"))
        if self.head is not None:
            self.head.load_state_dict(load_file(folder / HEAD))


def _head(width: int, descriptors: int) -> nn.Sequential:
    """Standardized pooled states to descriptors; zero at first, so that it begins at the descriptors' mean."""
    linear = nn.Linear(width, descriptors)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return nn.Sequential(Standardize(width), linear)


def pooled(states: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean of the states (B, T, D) of a SMILES' own tokens, without end and padding, to (B, D)."""
    real = labels != IGNORE
    # the end token is the last one that has a label, and stage 2 does not give it
    real = real & (torch.arange(real.shape[1], device=real.device) < real.sum(dim=1, keepdim=True) - 1)
    weight = real.unsqueeze(-1).to(states.dtype)
    return (states * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)


def load_llm(
    folder: Path, layers: int | None, device: torch.device
) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """A decoder with its vocabulary head, cut to its first layers, and its tokenizer.

    Raises:
        LLMError: it is no decoder of the Llama kind, has no end-of-sequence token, or has fewer layers.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from kflm2.device import llm_dtype

    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder)
            llm = AutoModelForCausalLM.from_pretrained(folder, dtype=llm_dtype(device), use_safetensors=True)
    except (OSError, ValueError, KeyError) as error:
        raise LLMError(f"LLM {folder} cannot be taught: {str(error).strip().splitlines()[0]}") from None
    if tokenizer.eos_token_id is None:
        raise LLMError(f"LLM {folder} has no end-of-sequence token, so it cannot learn where a SMILES ends")
    decoder: Any = getattr(llm, "model", None)
    if not (hasattr(decoder, "layers") and hasattr(decoder, "norm")):
        raise LLMError(f"LLM {folder}: a {type(llm).__name__} has no layers that are known here")
    if layers is not None:
        if layers > len(decoder.layers):
            raise SettingError(f"layers is {layers}, and the LLM has {len(decoder.layers)}")
        decoder.layers = decoder.layers[:layers]
        llm.config.num_hidden_layers = layers
    nn.Module.to(llm, device)
    return llm, tokenizer


class LoraTrainer(Trainer):
    """transformers' Trainer, that writes adapter and head rather than a whole model."""

    model: TaughtLLM

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        self.model.step = self.state.global_step
        return super().training_step(*args, **kwargs)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        self.model.save(Path(output_dir or str(self.args.output_dir)))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        self.model.restore(Path(resume_from_checkpoint))


class _RandomState(TrainerCallback):
    """Puts random numbers back to where they were when the checkpoint was written.

    transformers does so only where it passes over the data itself; and it must come after the data loader, which draws
    a number when it starts.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        self.trainer: LoraTrainer | None = None

    def on_step_begin(self, *_: object, **__: object) -> None:
        if self.trainer is not None:
            self.trainer._load_rng_state(str(self.checkpoint))
            self.trainer = None


class _Stop(TrainerCallback):
    """Ctrl-C ends training after the step at work, with a checkpoint that --resume goes on from."""

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None

    def on_train_begin(self, *_: object, **__: object) -> None:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._ask)

    def _ask(self, *_: object) -> None:
        self.asked = True
        signal.signal(signal.SIGINT, self._before)  # a second one does not wait

    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **_: object) -> None:
        if self.asked:
            control.should_save = control.should_training_stop = True

    def on_train_end(self, *_: object, **__: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)


class _Curve(TrainerCallback):
    """Losses over the steps, kept in losses.csv and shown beside a bar of molecules."""

    def __init__(self, model: TaughtLLM, path: Path, step: int) -> None:
        self.model, self.path, self.step = model, path, step
        self.bar: tqdm | None = None
        self.shown: dict[str, str] = {}

    def on_train_begin(self, args: TrainingArguments, state: Any, control: Any, **_: object) -> None:
        if state.is_world_process_zero:
            total, done = state.max_steps * self.step, state.global_step * self.step
            self.bar = tqdm(total=total, initial=done, desc="teaching", unit="mol")

    def on_train_end(self, *_: object, **__: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **_: object) -> None:
        if state.is_world_process_zero:
            losses = self.model.losses
            if self.bar is not None:
                self.bar.update(self.step)
                self.shown |= {name: f"{name} {value:.2f}" for name, value in losses.items()}
                self.bar.set_postfix_str(", ".join(self.shown.values()))
            head = "" if self.path.exists() else ",".join(["step", *losses]) + "\n"
            names = self.path.open(encoding="utf-8").readline().strip().split(",")[1:] if not head else list(losses)
            values = ",".join(f"{losses[name]:.6g}" if name in losses else "" for name in names)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(f"{head}{state.global_step},{values}\n")


def train(
    model: TaughtLLM, lessons: Lessons, collator: Collator, molecules: int, settings: FinetuneSettings, folder: Path
) -> None:
    """Teach, with a checkpoint every so many steps, from the last one where that is asked for.

    Args:
        model: with a fresh adapter.
        lessons: what to read.
        collator: makes tensors of it.
        molecules: in an epoch.
        settings: see FinetuneSettings.
        folder: of checkpoints and losses.csv.

    Raises:
        KeyboardInterrupt: Ctrl-C, after a checkpoint.
    """
    device = next(model.parameters()).device
    arguments = TrainingArguments(
        output_dir=str(folder / "checkpoints"),
        max_steps=max(1, molecules * settings.epochs // lessons.step),
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.accumulation,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=settings.warmup,
        weight_decay=0.0,
        seed=settings.seed,
        save_steps=settings.save_steps,
        save_total_limit=2,
        logging_strategy="no",
        disable_tqdm=True,
        report_to=[],
        use_cpu=device.type == "cpu",
        bf16=device.type == "cuda",
        # named in one process alone, it would be waited for
        ddp_backend=None if lessons.step == settings.batch_size * settings.accumulation else _backend(device),
        # an adapter on the vocabulary head has no part in a step that learns descriptors alone
        ddp_find_unused_parameters=settings.knowledge != "none" and settings.targets == "paper",
        # lessons pass over by themselves what was read before
        ignore_data_skip=True,
        dataloader_drop_last=True,
        # every process cuts its share out of the stream; batches of unequal length cannot be sent around
        accelerator_config={"dispatch_batches": False},
        remove_unused_columns=False,
        label_names=["labels"],
    )
    last = last_checkpoint(folder) if settings.resume else None
    if last is not None:
        lessons.start = json.loads((last / "trainer_state.json").read_text())["global_step"] * lessons.step
    stop = _Stop()
    trainer = LoraTrainer(
        model=model,
        args=arguments,
        train_dataset=lessons,
        data_collator=collator,
        callbacks=[_Curve(model, folder / "losses.csv", lessons.step), stop],
    )
    trainer.remove_callback(PrinterCallback)
    model.molecules = lessons.step
    if last is not None:
        random_state = _RandomState(last)
        random_state.trainer = trainer
        trainer.add_callback(random_state)
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    if stop.asked:
        print(f"stopped; --resume goes on from {last_checkpoint(folder)}", flush=True)
        raise KeyboardInterrupt


def _backend(device: torch.device) -> str:
    return "nccl" if device.type == "cuda" else "gloo"


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint."""
    found = [path.parent for path in (folder / "checkpoints").glob("checkpoint-*/trainer_state.json")]
    return max(found, key=lambda path: int(path.name.partition("-")[2]), default=None)


@torch.inference_mode()
def perplexity(
    model: TaughtLLM, tokenizer: "PreTrainedTokenizerBase", smiles: list[str], context: int, batch: int = 32
) -> float:
    """Perplexity per token of SMILES, their ends included: exp of the mean negative log-likelihood."""
    model.eval()
    total, count = 0.0, 0
    for start in range(0, len(smiles), batch):
        rows = tokens_and_labels(tokenizer, smiles[start : start + batch], context)
        ids, labels = (rows[name].to(next(model.parameters()).device) for name in ("input_ids", "labels"))
        summed, own = model.surprise(model.states(ids), labels)
        total += summed.item()
        count += int(own)
    return math.exp(total / count)
