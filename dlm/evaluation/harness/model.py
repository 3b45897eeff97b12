"""The model class of lm-evaluation-harness, answered by the one decode loop of this package."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from rich.progress import TimeRemainingColumn
from torch import Tensor

from dlm.api import CacheLike, DrafterLike, Run, SamplerLike, ready
from dlm.engine.canvas import Job
from dlm.engine.named import cache_of, drafter_of, sampler_of
from dlm.engine.no_cache import NoCache
from dlm.engine.result import RowResult, first_end
from dlm.engine.stops import Stops
from dlm.errors import NumericsError, PromptError, SettingsError
from dlm.evaluation.harness.answers import AnswerFile, Counters
from dlm.evaluation.harness.likelihood import Estimator, Likelihood, Pair
from dlm.evaluation.harness.requests import (
    HarnessRequest,
    Key,
    Wish,
    decode_digest,
    describe_settings,
    numbered,
)
from dlm.evaluation.harness.settings import from_model_args, whole
from dlm.evaluation.progress import progress_bar
from dlm.evaluation.shards import group
from dlm.models import LanguageModel

WINDOW = 64  # requests whose likelihoods are estimated together: what a crash may lose
Row = tuple[tuple[int, ...], int]  # prompt tokens and repetition


@register_model("dlm")
class HarnessModel(LM):
    """A masked diffusion language model for ``lm_eval.simple_evaluate(model=HarnessModel(...))``.

    Answers come in the order of the requests and depend neither on the batch nor on what else is asked. What a request
    took is kept in :attr:`answers`, by request, whether or not the harness caches the response; :func:`evaluate` adds
    the means to the results. The configuration is part of what the harness's response cache is asked for.

    Args:
        model: what :func:`dlm.load` returned; it must have a tokenizer.
        sampler, cache, drafter, seed, batch_size: as in :func:`dlm.generate`.
        max_new_tokens: positions to fill where a request names no number.
        samples: file that every answer is appended to with its counters (or one that is read already); None: counters
            are kept in memory.
        likelihood: how log-likelihoods are estimated.
        stop_early: end a row at its stop string; False decodes its whole region, as published figures were made. The
            answers are the same.

    Raises:
        SettingsError: a model without a tokenizer, sizes below 1, ``samples`` that cannot be read.
    """

    def __init__(
        self,
        model: LanguageModel | str | Path,
        *,
        sampler: SamplerLike,
        cache: CacheLike = None,
        drafter: DrafterLike = None,
        max_new_tokens: int = 256,
        seed: int = 0,
        batch_size: int | str = 8,
        samples: str | Path | AnswerFile | None = None,
        likelihood: Likelihood | None = None,
        stop_early: bool = True,
    ) -> None:
        super().__init__()
        model, sampler, cache, drafter = ready(model), sampler_of(sampler), cache_of(cache), drafter_of(drafter)
        if model.tokenizer is None:
            raise SettingsError(f"{model.name} has no tokenizer, and the harness asks in text: use one that has")
        self.model, self.sampler, self.cache, self.drafter = model, sampler, cache, drafter
        self.max_new_tokens, self.seed = whole("max_new_tokens", max_new_tokens), seed
        self.batch_size = whole("batch_size", batch_size)
        self.likelihood = likelihood or Likelihood()
        self.processes = group()
        self._rank, self._world_size, self._device = self.processes.rank, self.processes.world, model.device
        if not isinstance(stop_early, bool):
            raise SettingsError(f"stop_early is true or false, got {stop_early!r}")
        self.stop_early = stop_early
        decoding = (sampler, cache or NoCache(), drafter, self.max_new_tokens, seed, stop_early)
        self.settings = describe_settings(*decoding, self.likelihood)
        self.digest = decode_digest(model, *decoding, self.likelihood)
        if not isinstance(samples, AnswerFile):
            samples = AnswerFile(None if samples is None else Path(samples), self._rank)
        self.answers = samples
        self._template: str | None = None

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict | None = None) -> HarnessModel:
        """From ``pretrained=tiny,sampler=topk,sampler.tokens_per_step=2``: see :meth:`create_from_arg_obj`."""
        from lm_eval.utils import simple_parse_args_string

        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    @classmethod
    def create_from_arg_obj(cls, arg_dict: dict, additional_config: dict | None = None) -> HarnessModel:
        """From the harness's ``model_args``: ``pretrained`` (or ``path``) is a name, a folder or a Hugging Face id;
        ``samples`` a file; everything else an override as on the command line of ``dlm lm-eval``.

        ``batch_size`` may be a string; ``device=cuda:0`` counts only where there is a GPU, because the harness's own
        command gives it everywhere.

        Raises:
            SettingsError: unknown settings; a batch size that is no number.
        """
        extra = {key: value for key, value in (additional_config or {}).items() if value is not None}
        return from_model_args({**extra, **arg_dict}, cls)

    # What the harness wants to know of a model.

    @property
    def tokenizer_name(self) -> str:
        """Name under which the harness may cache requests: the model's, and the template's digest."""
        template = hashlib.sha256(str(self.model.tokenizer.chat_template).encode()).hexdigest()[:8]  # type: ignore[union-attr]
        return f"{self.model.name.replace('/', '__')}-{template}"

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self.model.tokenizer

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template that :meth:`apply_chat_template` uses; None for False. A name chooses one of several.

        Raises:
            SettingsError: the model has no template, or none of that name.
        """
        if chat_template is False or chat_template is None:
            return None
        own = self.model.tokenizer.chat_template  # type: ignore[union-attr]
        if isinstance(chat_template, str):
            if not isinstance(own, dict) or chat_template not in own:
                known = ", ".join(own) if isinstance(own, dict) else "one, which has no name"
                raise SettingsError(f"{self.model.name} has no chat template {chat_template!r}; it has {known}")
            self._template = str(own[chat_template])
            return self._template
        if own is None:
            raise SettingsError(f"{self.model.name} has no chat template: leave --apply_chat_template out")
        return str(own["default"] if isinstance(own, dict) else own)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation as text; without a generation prompt the last message is one that goes on.

        Raises:
            SettingsError: the model has no template.
            PromptError: the template refuses the conversation.
        """
        self.chat_template(True)
        try:
            return str(
                self.model.tokenizer.apply_chat_template(  # type: ignore[union-attr]
                    [{"role": m["role"], "content": m["content"]} for m in chat_history],
                    chat_template=self._template,
                    tokenize=False,
                    add_generation_prompt=add_generation_prompt,
                    continue_final_message=not add_generation_prompt,
                )
            )
        except Exception as error:  # jinja raises whatever the template's author chose
            raise PromptError(f"the chat template refused the conversation: {error}") from error

    def get_model_info(self) -> dict[str, Any]:
        """What result files say of the configuration."""
        return {"model": "dlm", "dlm_digest": self.digest, "dlm_settings": self.settings}

    def set_cache_hook(self, cache_hook: Any) -> None:
        """Answer from the harness's response cache only what this configuration has decoded.

        The cache's key is (method, text, gen_kwargs), in which a sampler does not occur. So every configuration has a
        table of its own in the file.
        """
        super().set_cache_hook(cache_hook)
        if (table := cache_hook.dbdict) is not None:
            table.tablename = f"dlm_{self.digest}"
            table.conn.execute(f'CREATE TABLE IF NOT EXISTS "{table.tablename}" (key TEXT PRIMARY KEY, value BLOB)')
            table.conn.commit()

    # All that the harness exchanges is small: it goes through main memory, whatever the device.

    def all_gather(self, tensor: Tensor) -> Tensor:
        """The tensors of all processes, one behind the other."""
        if self.world_size == 1:
            return tensor
        return torch.cat([part.reshape(-1, *tensor.shape[1:]) for part in self.processes.gather(tensor.cpu())])

    def gather_object(self, obj: Any, dst: int = 0) -> list[Any] | None:
        """The values of all processes by rank on process ``dst``, None on the others."""
        values = self.processes.gather(obj)
        return values if self.rank == dst else None

    def barrier(self) -> None:
        """Wait for the others."""
        self.processes.gather(None)

    # Answers.

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """One answer a request, in their order: the generated text before its first end token and stop string.

        Requests with equal settings are decoded in one run, the longest prompts first, so that the batch stays full.
        What is finished is kept at once, here and in the harness's cache.

        Raises:
            PromptError: a prompt that is empty, holds the mask or does not fit, before anything is decoded.
        """
        asked = numbered(requests, self.digest)
        groups: dict[Wish, dict[Row, list[HarnessRequest]]] = defaultdict(lambda: defaultdict(list))
        for one in {one.key: one for one in asked}.values():
            context, settings = one.request.args
            wish = Wish.of(settings, self.max_new_tokens, self.sampler)
            groups[wish][self._prompt(one, context, wish.budget), one.key[1]].append(one)
        texts: dict[Key, str] = {}
        total = sum(len(rows) for group in groups.values() for rows in group.values())
        with self.answers.open(), self._progress("decoding", total, disable_tqdm) as advance:
            for wish, rows in groups.items():
                for key, text in self._decode(wish, rows):
                    texts[key] = text
                    advance()
        return [texts[one.key] for one in asked]

    def _prompt(self, one: HarnessRequest, context: str, budget: int) -> tuple[int, ...]:
        """Token ids; a rendered chat holds its special tokens already, so that nothing is added."""
        ids, description = tuple(self.model.encode(context)), self.model.description
        if not ids:
            raise PromptError(f"{one.place}: the prompt is empty; give the task a text to begin with")
        if description.mask_id in ids:
            raise PromptError(f"{one.place}: the prompt holds the mask token; take it out of the task's text")
        self._check_length(one, len(ids), budget)
        return ids

    def _check_length(self, one: HarnessRequest, prompt: int, answer: int) -> None:
        context = self.model.description.context_length
        if prompt + answer > context:
            raise PromptError(
                f"{one.place}: {prompt} tokens of prompt and {answer} of answer are more than the model's context of"
                f" {context}: ask for fewer examples (--num_fewshot) or fewer tokens (max_new_tokens)"
            )

    def _decode(self, wish: Wish, rows: dict[Row, list[HarnessRequest]]) -> Iterator[tuple[Key, str]]:
        """Answers as their rows are finished. Copies of a row stand in the order of their repetition, which is what
        their noise follows."""
        order = sorted(rows, key=lambda row: (-len(row[0]), row[1]))
        mask = self.model.description.mask_id
        jobs, ends = [], Stops.of(self.model, wish.stop)
        early = ends if self.stop_early else None
        for index, (prompt, _) in enumerate(order):
            start, end = len(prompt), len(prompt) + wish.budget
            jobs.append(Job(index, (*prompt, *[mask] * wish.budget), start, tuple(range(start, end)), 0, stops=early))
        sampler = wish.sampler(self.sampler)
        for event in Run(self.model, jobs, sampler, self.cache, self.drafter, self.seed, self.batch_size):
            if isinstance(event, RowResult):
                for one in rows[order[event.index]]:
                    yield one.key, self._finish(one, event, ends, 2 if sampler.guidance > 0 else 1)

    def _finish(self, one: HarnessRequest, row: RowResult, ends: Stops | None, per_step: int) -> str:
        """Keep the answer, cut, and its counters, then tell the cache: what is cached has counters."""
        if ends is None:
            kept = first_end(row.tokens, self.model.description.eos_ids)
            text = self.model.decode(row.tokens[:kept])
        else:
            kept, text = ends.kept(row.tokens), ends.text(row.tokens)
        needed = max((step for step in row.commit_step[:kept] if step >= 0), default=-1) + 1
        counts = row.counts
        tokens = sum(step >= 0 for step in row.commit_step[:kept])
        counters = Counters(counts.forwards, per_step * needed, counts.token_forwards, tokens, counts.seconds)
        details = {
            "kind": "generate_until", "prompt_tokens": len(row.prompt), "canvas": len(row.tokens),
            "output_text": text, "output_ids": row.tokens, "commit_step": row.commit_step, "stop": row.stop,
            "generated": counts.tokens, "accepted_drafts": counts.accepted_drafts,
        }  # fmt: skip
        self._keep(one, counters, details, text)
        return text

    def _keep(self, one: HarnessRequest, counters: Counters, details: dict[str, Any], answer: Any) -> None:
        request = one.request
        place = {"task": request.task_name, "doc_id": request.doc_id, "idx": request.idx}
        self.answers.add(one.key, counters, {"digest": self.digest, "seed": self.seed, **place, **details})
        if not one.draws:
            self.cache_hook.add_partial(details["kind"], request.args, answer)

    # Likelihoods.

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """The bound on the log-likelihood of each continuation, and whether it is the model's own answer.

        White space at the end of a context belongs to the continuation, as in the evaluation that
        LLaDA published (arXiv 2502.09992).
        """

        def tokens(one: HarnessRequest) -> list[tuple[list[int], list[int]]]:
            context, answer = one.request.args
            bare = context.rstrip()
            given = self.model.encode(bare) if bare else []
            return [(given, self.model.encode(context + answer)[len(given) :])]

        return self._estimate(numbered(requests, self.digest), "loglikelihood", tokens, disable_tqdm)

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """The same bound for whole texts. One that is longer than the context is the sum of pieces of half a context,
        each after the half before it."""

        def tokens(one: HarnessRequest) -> list[tuple[list[int], list[int]]]:
            ids, context = self.model.encode(one.request.args[0]), self.model.description.context_length
            if len(ids) < context:
                return [([], ids)]
            half = context // 2
            return [(ids[max(0, at - half) : at], ids[at : at + half]) for at in range(0, len(ids), half)]

        asked = numbered(requests, self.digest)
        return [value for value, _ in self._estimate(asked, "loglikelihood_rolling", tokens, disable_tqdm)]

    def _estimate(self, asked: list[HarnessRequest], kind: str, tokens: Any, quiet: bool) -> list[tuple[float, bool]]:
        settings = self.likelihood
        if kind == "loglikelihood_rolling":  # nobody asks whether a whole text is the model's own
            settings = Likelihood(settings.mc_num, False, settings.compat, settings.stratum)
        if self.sampler.guidance_remask:
            raise SettingsError("a likelihood has no committed tokens to mask again: leave guidance_remask out")
        estimator = Estimator(self.model, settings, self.seed, self.batch_size, self.sampler.guidance)
        unique = list({one.key: one for one in asked}.values())
        pairs = {one.key: [self._pair(one, *piece) for piece in tokens(one)] for one in unique}
        unique.sort(key=lambda one: -sum(len(pair.context) + len(pair.answer) for pair in pairs[one.key]))
        found: dict[Key, tuple[float, bool]] = {}
        with self.answers.open(), self._progress("likelihoods", len(unique), quiet) as advance:
            for first in range(0, len(unique), WINDOW):
                window = unique[first : first + WINDOW]
                estimator([pair for one in window for pair in pairs[one.key]])
                for one in window:
                    found[one.key] = self._finish_estimate(one, kind, pairs[one.key])
                    advance()
        return [found[one.key] for one in asked]

    def _pair(self, one: HarnessRequest, context: list[int], answer: list[int]) -> Pair:
        """A model with shifted logits scores a token from the one before it, so that something must come first."""
        if self.model.description.shift and not context:
            beginning = self.model.tokenizer.bos_token_id  # type: ignore[union-attr]
            context = [self.model.description.eos_ids[0] if beginning is None else beginning]
        self._check_length(one, len(context), len(answer))
        return Pair(tuple(context), tuple(answer))

    def _finish_estimate(self, one: HarnessRequest, kind: str, pairs: list[Pair]) -> tuple[float, bool]:
        value, greedy = sum(pair.value for pair in pairs), all(pair.greedy for pair in pairs)
        if not isfinite(value):
            raise NumericsError(f"{one.place}: the model's logits are not finite; try another dtype")
        forwards, fed = sum(pair.forwards for pair in pairs), sum(pair.token_forwards for pair in pairs)
        details = {"kind": kind, "value": value, "greedy": greedy, "answer_tokens": sum(len(p.answer) for p in pairs)}
        answer = value if kind == "loglikelihood_rolling" else (value, greedy)
        self._keep(one, Counters(forwards, 0, fed, None, 0.0), details, answer)
        return value, greedy

    @contextmanager
    def _progress(self, what: str, total: int, quiet: bool) -> Iterator[Any]:
        """A bar on a terminal, on the first process."""
        with progress_bar(TimeRemainingColumn(), quiet=quiet or self._rank > 0) as bar:
            task = bar.add_task(what, total=total)
            yield lambda: bar.advance(task)
