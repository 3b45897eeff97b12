"""Caches: which positions are recomputed at a step, and which stored keys stand in for the others.

A policy is a small frozen dataclass over one base (:mod:`cache.policy`). The presets, under the names that
``cache=NAME`` takes on the command line:

============== ========================================================================================================
none           everything, at every step
prefix         the block and what follows (Fast-dLLM)
dual           the block (Fast-dLLM)
vicinity       the block and its neighbourhood (dInfer)
dkv_decode     all masks, and decided positions one step late (dKV-Cache)
dkv_greedy     what is about to be committed in a random order, and a window (dKV-Cache)
dkv_prefill    everything but the prompt (dKV-Cache)
dkv_pd         the prompt once, the rest as dkv_decode (dKV-Cache)
dllm           inside every layer only what moved (dLLM-Cache)
freecache      everything behind the finished blocks (FlashDLM)
sparse         the block, over half of the keys (Sparse-dLLM)
window         another cache, with distant masks out of sight (Streaming-dLLM, Window-Diffusion)
entropy        the block, everything after an unsure step (EntropyCache)
block_causal   exact, for block-causal models (SDAR, LLaDA2.x)
recap          a few candidates between full steps (ReCAP)
dsb            a sliding window and what it has just left (DSB)
delayed_prefix what is not full, all of it for a few steps after a block is (d3LLM)
surelock       what is not settled; what is stays for good (SureLock)
d2cache        masks that are nearly settled, and what attention rollout calls important (d2Cache)
elastic        a window of masks, and from some layer on everything where attention drifts (Elastic-Cache)
adaptive       ours: vicinity, recent commits, refresh by doubt and by tokens
============== ========================================================================================================
"""

from cache.block_causal import BlockCausal, SubBlocks
from cache.context import PolicyContext
from cache.d2 import D2Cache
from cache.delayed import DelayedPrefix
from cache.dkv import DKVPD, DKVDecode, DKVPrefill
from cache.dllm import DLLM
from cache.dsb import DSB
from cache.dual import Dual
from cache.elastic import Elastic
from cache.entropy import Entropy
from cache.free import FreeCache
from cache.greedy import DKVGreedy, Recap
from cache.policy import Policy
from cache.prefix import Prefix
from cache.presets import adaptive, block_causal, none
from cache.run import Run
from cache.sparse import Sparse
from cache.surelock import SureLock
from cache.vicinity import Vicinity
from cache.window import Window

prefix, dual, vicinity = Prefix, Dual, Vicinity
dkv_decode, dkv_greedy, dkv_prefill, dkv_pd = DKVDecode, DKVGreedy, DKVPrefill, DKVPD
dllm, freecache, sparse, window, entropy = DLLM, FreeCache, Sparse, Window, Entropy
recap, d2cache, surelock, dsb, delayed_prefix, elastic = Recap, D2Cache, SureLock, DSB, DelayedPrefix, Elastic

# fmt: off
PRESETS = (
    "none", "prefix", "dual", "vicinity", "dkv_decode", "dkv_greedy", "dkv_prefill", "dkv_pd", "dllm", "freecache",
    "sparse", "window", "entropy", "block_causal", "recap", "adaptive", "d2cache",
    "surelock", "dsb", "delayed_prefix", "elastic",
)
__all__ = [
    "DKVPD", "DLLM", "DSB", "PRESETS", "BlockCausal", "D2Cache", "DKVDecode", "DKVGreedy", "DKVPrefill",
    "DelayedPrefix", "Dual", "Elastic", "Entropy", "FreeCache", "Policy", "PolicyContext", "Prefix", "Recap", "Run",
    "Sparse", "SubBlocks", "SureLock", "Vicinity", "Window", "adaptive", "block_causal", "d2cache", "delayed_prefix",
    "dkv_decode", "dkv_greedy", "dkv_pd", "dkv_prefill", "dllm", "dsb", "dual", "elastic", "entropy", "freecache",
    "none", "prefix", "recap", "sparse", "surelock", "vicinity", "window",
]
