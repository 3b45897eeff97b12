"""What a type checker knows of the options (`make lint`): a line without a mark has no fault, a marked one has this."""

import cache
import dlm
import samplers

samplers.threshold(0.9, temperature=0.5, stop_at_end=True)
dlm.generate("tiny", "hi", sampler="topk", cache=cache.dual)
samplers.threshold(0.9, temprature=0.5)  # type: ignore[call-arg]
samplers.topk(tokens_per_step="2")  # type: ignore[arg-type]
cache.dual(evry=3)  # type: ignore[call-arg]
samplers.Threshold(treshold=3)  # type: ignore[call-arg]
