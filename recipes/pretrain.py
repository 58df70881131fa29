"""Pre-training: language modelling on raw text, going on with a model or beginning with a new one.

    rlgen pretrain --from_scratch --train_tokenizer --dataset_name texts/ --output_dir runs/pretrain
    rlgen pretrain --model_name_or_path embedded --dataset_name notes.md manual/ --output_dir runs/pretrain
    rlgen pretrain --objective masked --from_scratch --train_tokenizer --dataset_name stdlib --output_dir runs/encoder
    rlgen pretrain --config from_raw_text/pretrain.yaml

Needs text: files (.txt, .md, .rst, .py), folders of them, data sets with a column `text`, or "stdlib", the docstrings
and comments of Python's own library. A new model of two million parameters reads about 5,000 tokens a second on one
CPU core; the standard library has 800,000. Leaves a plain model folder with its tokenizer: of a decoder (--objective
causal) for `rlgen sft`, of an encoder (masked) as the backbone of `rlgen reward`; with run.json and metrics.jsonl,
where the perplexity of held-out text stands before, during and after. The same command goes on with a stopped run.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import rlgen  # isort: skip  # noqa: F401  (it sets what the libraries below read when they are imported)

from peft import get_peft_model
from transformers import Trainer, TrainingArguments, set_seed

from rlgen.best_checkpoint import best_checkpoint
from rlgen.config import ModelArguments, fit_to_machine, parse_arguments, recipe, resolved_config
from rlgen.controls import ControlArguments, check_best_metric, controlled
from rlgen.data import check_disjoint
from rlgen.documents import hold_out, load_documents
from rlgen.dropout import set_dropout
from rlgen.errors import ConfigError
from rlgen.models import load_config, load_masked_model, load_policy, load_tokenizer, save_model, starting_model
from rlgen.new_models import OBJECTIVES, ArchitectureArguments, check_objective, longest_block, new_config, new_model
from rlgen.optimizers import use_optimizer
from rlgen.pretraining import BlockCollator, BlockLosses, masked_once, perplexity, token_blocks
from rlgen.runs import open_run
from rlgen.strategies import check_tuning, find_strategy
from rlgen.tuning import leave_casts_to_autocast, start_tuning
from rlgen.tuning_callbacks import tuning_callbacks
from rlgen.vocabulary import SMALLEST, train_tokenizer


@dataclass
class PretrainArguments(ControlArguments, TrainingArguments):
    """transformers' training settings, with defaults for language modelling on a small machine."""

    output_dir: str | None = field(default="runs/pretrain", metadata={"help": "Folder of this run."})
    objective: str = field(
        default="causal",
        metadata={"help": "causal: predict the next token; masked: hidden ones.", "choices": list(OBJECTIVES)},
    )
    mlm_probability: float = field(default=0.15, metadata={"help": "Share of the tokens that are hidden (masked)."})
    max_length: int = field(default=256, metadata={"help": "Tokens of a block; longer documents go on in the next."})
    packing: bool = field(
        default=True, metadata={"help": "Fill blocks across documents; else each document is cut by itself."}
    )
    merge_adapter: bool = field(
        default=True, metadata={"help": "Save a plain model with the adapter merged in, not the adapter alone."}
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "Allow a hub model to bring its own code."})
    learning_rate: float | None = field(
        default=None,
        metadata={"help": "Highest learning rate; default 2e-3 from scratch, 5e-4 for adapters, else 5e-5."},
    )
    num_train_epochs: float = field(default=1.0, metadata={"help": "Passes over the text."})
    per_device_train_batch_size: int = field(default=16, metadata={"help": "Blocks per device and step."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Schedule of the learning rate."})
    warmup_steps: float = field(default=0.05, metadata={"help": "Steps, or share of all steps, of rising rate."})
    logging_steps: float = field(default=10, metadata={"help": "Log every so many steps."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to compute the held-out perplexity."})
    save_steps: float = field(default=0.25, metadata={"help": "Checkpoint every so many steps or share of all."})
    save_total_limit: int | None = field(default=2, metadata={"help": "How many checkpoints to keep."})
    bf16: bool | None = field(default=None, metadata={"help": "Mixed precision; default where the device is fast."})
    lr_scheduler_kwargs: dict | str | None = field(default=None, metadata={"help": "Options of the schedule."})
    report_to: str | None = field(default="none", metadata={"help": "Where to log besides metrics.jsonl."})
    disable_tqdm: bool | None = field(default=True, metadata={"help": "Leave the progress display to rlgen."})

    def __post_init__(self) -> None:
        """Refuse what leaves nothing to learn, and choose the number format that this machine is fast in."""
        if not 0 < self.mlm_probability < 1:
            raise ValueError(f"mlm_probability must lie between 0 and 1, not {self.mlm_probability}")
        if self.max_length < 4:
            raise ValueError(f"max_length must be at least 4, not {self.max_length}")
        fit_to_machine(self)
        with controlled(self, "pretrain"):
            super().__post_init__()


@dataclass
class TextArguments:
    """Where the text comes from."""

    _argument_group_name = "data"

    dataset_name: list[str] | None = field(
        default=None,
        metadata={
            "help": "Texts: .txt, .md, .rst or .py files, folders of them, data sets with a column text (.jsonl, "
            ".json, .csv, .parquet, hub id), or stdlib."
        },
    )
    dataset_train_split: str = field(default="train", metadata={"help": "Split of a data set to train on."})
    max_train_rows: int | None = field(default=None, metadata={"help": "Use at most this many documents."})
    eval_dataset_name: list[str] | None = field(
        default=None, metadata={"help": "Own held-out texts, in the same formats; default a share of the documents."}
    )
    heldout_fraction: float = field(default=0.05, metadata={"help": "Share of the documents that is held out."})
    max_eval_rows: int | None = field(default=None, metadata={"help": "Use at most this many held-out documents."})

    def __post_init__(self) -> None:
        """Refuse shares and counts that leave nothing."""
        if not 0 < self.heldout_fraction < 1:
            raise ValueError(f"heldout_fraction must lie between 0 and 1, not {self.heldout_fraction}")
        for name in ("max_train_rows", "max_eval_rows"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")


@dataclass
class StartArguments(ModelArguments):
    """Which model to go on with, or that a new one is wanted."""

    model_name_or_path: str = field(
        default="", metadata={"help": 'Hub id, local folder, "embedded" or "embedded-encoder" to go on with.'}
    )
    from_scratch: bool = field(default=False, metadata={"help": "Begin with a new model of random weights."})
    train_tokenizer: bool = field(default=False, metadata={"help": "Train a tokenizer on the text, for a new model."})
    vocab_size: int = field(default=4096, metadata={"help": "Tokens of that tokenizer, at most."})
    tokenizer_name: str | None = field(
        default=None, metadata={"help": "Model whose tokenizer a new model takes, in place of --train_tokenizer."}
    )
    tuning: str | None = field(
        default="full",
        metadata={"help": "What trains: full, gradual, head, bitfit, lora and other adapters; see docs/tuning.md."},
    )


def check(args: PretrainArguments, text: TextArguments, start: StartArguments, sizes: ArchitectureArguments) -> None:
    """Refuse, before anything is loaded, settings that contradict each other."""
    if not text.dataset_name:
        raise ConfigError("there is no text to train on; give --dataset_name FILE or FOLDER, or stdlib")
    if start.from_scratch == bool(start.model_name_or_path):
        contradiction = "--from_scratch begins with random weights, and --model_name_or_path brings trained ones: "
        nothing = "there is no model to begin with: "
        remedy = "give --from_scratch for a new model, or --model_name_or_path PATH to go on with one"
        raise ConfigError((contradiction if start.from_scratch else nothing) + remedy)
    check_tuning(start, "pretrain", merge=args.merge_adapter, gradient_checkpointing=args.gradient_checkpointing)
    changed = [item.name for item in fields(sizes) if getattr(sizes, item.name) != item.default]
    if not start.from_scratch:
        for name in (*changed, *(name for name in ("train_tokenizer", "tokenizer_name") if getattr(start, name))):
            raise ConfigError(f"--{name} is for a new model, and a trained one has its own: give --from_scratch")
    elif start.train_tokenizer == bool(start.tokenizer_name):
        raise ConfigError("a new model needs a tokenizer: give one of --train_tokenizer and --tokenizer_name PATH")
    elif start.tuning != "full" or start.top_layers is not None:
        raise ConfigError("--from_scratch trains all weights, since random ones are no base: leave --tuning full")
    defaults = {item.name: item.default for kind in (args, text, start) for item in fields(kind)}
    for name, holder, unread, reason in (
        ("vocab_size", start, not start.train_tokenizer, "no tokenizer is trained"),
        ("dtype", start, start.from_scratch, "a new model has float32 weights"),
        ("attn_implementation", start, start.from_scratch, "a new model takes transformers' own"),
        ("mlm_probability", args, args.objective != "masked", "nothing is masked in causal language modelling"),
        ("heldout_fraction", text, bool(text.eval_dataset_name), "held-out text is given"),
    ):
        if unread and getattr(holder, name) != defaults[name]:
            raise ConfigError(f"--{name} has no effect here: {reason}; leave it out")
    if start.train_tokenizer and start.vocab_size < SMALLEST:
        raise ConfigError(f"--vocab_size must be at least {SMALLEST} (bytes and special tokens): {start.vocab_size}")
    if args.objective == "masked" and not (find_strategy(str(start.tuning)).merges and args.merge_adapter):
        raise ConfigError("--objective masked leaves a plain model: take a --tuning that merges, such as full or lora")


@recipe
def main(argv: Sequence[str] | None = None) -> None:
    """Train, save, and say what comes next."""
    args, text, model_args, sizes = parse_arguments(
        (PretrainArguments, TextArguments, StartArguments, ArchitectureArguments),
        description="Causal or masked language modelling on raw text.",
        argv=argv,
    )
    check(args, text, model_args, sizes)
    check_best_metric(args, "pretrain")
    masked = args.objective == "masked"
    if args.learning_rate is None:
        args.learning_rate = 2e-3 if model_args.from_scratch else 5e-4 if model_args.use_peft else 5e-5
    run = open_run(args.output_dir, stage="pretrain", config=resolved_config(args, text, model_args, sizes))
    next_command = f"next: rlgen sft --model_name_or_path {args.output_dir} --output_dir runs/sft"
    if not find_strategy(str(model_args.tuning)).merges:  # the adapter stays one, and no stage starts upon it
        checkpoints = f"base={model_args.model_name_or_path} pretrained={args.output_dir}"
        next_command = f"next: rlgen compare --checkpoints {checkpoints} --output_dir runs/compare"
    if masked:
        pairs = "--dataset_name pairs.jsonl --output_dir runs/reward"
        next_command = f"next: rlgen reward --model_name_or_path {args.output_dir} {pairs}"
    if run.finished:
        print(f"{args.output_dir} is finished\n{next_command}")
        return
    checkpoint = args.resume_from_checkpoint or run.last_checkpoint()

    # 1. Whether model, tokenizer and objective go together
    trusted = args.trust_remote_code
    start = tokenizer = None
    if model_args.from_scratch:
        config = new_config(sizes, args.objective)
    else:
        config = load_config(model_args.model_name_or_path, trust_remote_code=trusted)
        check_objective(config, args.objective, model_args.model_name_or_path)
        with args.main_process_first(desc="base model"):
            start = starting_model(model_args.model_name_or_path, args.output_dir, trust_remote_code=trusted)
    given = start or model_args.tokenizer_name
    if given:
        tokenizer = load_tokenizer(given, trust_remote_code=trusted, needs_eos=not masked)
        if masked and None in (tokenizer.mask_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id):
            raise ConfigError(f"the tokenizer of {given} has no mask, cls or sep token: take an encoder's")
    limit = longest_block(config, tokenizer if masked else None)
    if limit is not None and args.max_length > limit:
        raise ConfigError(f"--max_length {args.max_length} is more than the {limit} tokens that the model can read")

    # 2. Documents, some of them held out
    train = load_documents(text.dataset_name, split=text.dataset_train_split, max_rows=text.max_train_rows)
    if text.eval_dataset_name:
        heldout = load_documents(text.eval_dataset_name, max_rows=text.max_eval_rows)
        check_disjoint({"training text": train, "held-out text": heldout})
    else:
        train, heldout = hold_out(train, text.heldout_fraction)
        heldout = heldout.select(range(min(len(heldout), text.max_eval_rows or len(heldout))))
    run.record_data("pretrain", train)
    run.record_data("pretrain_heldout", heldout)

    # 3. Tokenizer and blocks
    if tokenizer is None and checkpoint:
        tokenizer = load_tokenizer(checkpoint, needs_eos=not masked)
    elif tokenizer is None:
        tokenizer = train_tokenizer(train["text"], model_args.vocab_size, encoder=masked, max_length=limit)
    tokenizer.padding_side = "right"  # an encoder counts positions from the first token
    options = {"length": args.max_length, "objective": args.objective}
    blocks = token_blocks(train, tokenizer, packing=args.packing, **options)
    held = token_blocks(heldout, tokenizer, packing=False, **options)  # every token of every held-out document
    if masked:
        held = masked_once(held, tokenizer, args.mlm_probability, args.seed)

    # 4. Model
    set_seed(args.seed)
    if start is None:
        model = new_model(new_config(sizes, args.objective, tokenizer), args.objective)
    else:
        load = load_masked_model if masked else load_policy
        kernel = {"attn_implementation": model_args.attn_implementation} if model_args.attn_implementation else {}
        model = load(start, dtype=model_args.weights_dtype, trust_remote_code=trusted, **kernel)
    set_dropout(model, args.dropout)
    if start is not None:
        adapter = start_tuning(model_args, model, "FEATURE_EXTRACTION" if masked else "CAUSAL_LM")
        if adapter is not None:
            model = get_peft_model(model, adapter)
            if args.gradient_checkpointing:
                model.enable_input_require_grads()

    # 5. Train, with the perplexity of held-out text before and after
    trainer = Trainer(
        model=model,
        args=args,
        data_collator=BlockCollator(tokenizer, args.objective, args.mlm_probability),
        train_dataset=blocks,
        eval_dataset=held,
        processing_class=tokenizer,
        compute_metrics=perplexity,
        preprocess_logits_for_metrics=BlockLosses(args.objective),
        callbacks=[*run.callbacks(), *tuning_callbacks(model_args, run), *best_checkpoint(run, args)],
    )
    use_optimizer(trainer)
    if args.bf16 or args.fp16:
        leave_casts_to_autocast(trainer.model)
    if "perplexity_before" not in run.record:
        run.note("perplexity_before", trainer.evaluate()["eval_perplexity"])
    result = trainer.train(resume_from_checkpoint=checkpoint)
    after = trainer.evaluate()

    # 6. Save
    if trainer.is_world_process_zero():
        save_model(
            trainer.accelerator.unwrap_model(trainer.model), tokenizer, args.output_dir, merge=args.merge_adapter
        )
        before = run.record["perplexity_before"]
        found = {"perplexity_before": before, "perplexity": after["eval_perplexity"], "eval_loss": after["eval_nll"]}
        run.finish({**result.metrics, **found, "train_tokens": sum(map(len, blocks["input_ids"]))})
        print(f"perplexity of held-out text {before:.1f} before, {after['eval_perplexity']:.1f} after")
    print(next_command)


if __name__ == "__main__":
    main()
