"""Every key of a run config, once. A run card starts from `get_config()` and sets what differs.

0 and '' in `model` mean "the size's" (bigmodel/models/presets.py); `launch.py show` prints what
they become.
"""

from ml_collections import ConfigDict


def get_config(arg: str = '') -> ConfigDict:
    """A config that runs as it is: a tiny decoder on the standard library's sources."""
    c = ConfigDict()
    c.name = ''  # of the run directory, runs/<name>; '': the config file's name
    c.seed = 0  # of the initialisation, the data order and dropout
    c.num_steps = 1000  # parameter updates
    # causal_lm, prefix_lm, masked_lm, replaced_tokens, span_corruption, ul2, masked_images;
    # fine-tuned: instruction, seq2seq, classification, regression, token_classification,
    # extractive_qa, multiple_choice; distillation; of preferences dpo, simpo;
    # joint(first=, second=, weight=): two in one step
    c.task = 'causal_lm'  # bigmodel/tasks; `launch.py parts task` lists their arguments
    c.accumulate = 1  # microbatches summed before an update
    c.stop_early = ''  # 'validation/loss: patience=3' evaluations that are not the best; '': never
    c.log_every = 10  # steps between lines of metrics.jsonl
    c.check_finite = True  # stop when the loss is NaN or infinite
    # Frozen models of other runs that the task asks for: 'teacher: RUN' of distillation,
    # 'generator: RUN' of replaced_tokens,
    c.companions = ()  # 'reference: RUN' of dpo (when not named: that of init_from)
    c.sample = ''  # prompt (or source) of samples.txt, written at the end; '': none

    c.data = ConfigDict()
    # pystdlib, pystdlib_summaries, pystdlib_tokens, tfds("name"), text, jsonl; probes: see
    c.data.source = 'pystdlib'  # data/probes.py; images: digits, tfds_images("name")
    # Several sources, 'name: weight key=value ...' with what differs from source, path, format and
    # packing here: ('code: 3', 'prose: 1 source=text path=*.txt'); weights are shares of the rows.
    c.data.mixture = ()  # (): the one data.source
    c.data.path = ''  # glob of files, for text and jsonl
    # What becomes of an example's fields (data/formats.py): text(text=, label=), pair, score, tags,
    c.data.format = 'text'  # span, choices, prompt(prompt=, response=), chat(template=), preference
    c.data.tokenizer = 'bytes'  # bytes, chars, hf("x.json"), sentencepiece("x.model")
    c.data.packing = 'stream'  # stream, first_fit, windows, pad, sides, strided: data/packing.py
    c.data.seq_len = 256  # tokens a row; of an image: its patches, and one for a class token
    c.data.batch_size = 32  # rows an update, over all devices and hosts
    c.data.cache_dir = ''  # of prepared data; '': ~/.cache/bigmodel
    c.data.workers = 0  # processes that prepare data; 0: one a core

    c.model = ConfigDict()
    c.model.size = 'tiny'  # a row of bigmodel/models/presets.py
    c.model.depth = 0  # layers
    c.model.width = 0  # of the residual stream
    c.model.num_heads = 0  # query heads
    c.model.num_kv_heads = 0  # key-value heads; 0: num_heads
    c.model.head_dim = 0  # 0: width / num_heads
    c.model.vocab_size = 0  # 0: the tokenizer's, rounded up to a multiple of 64
    c.model.max_length = 0  # of learned positions; 0: data.seq_len
    c.model.inputs = ''  # tokens(scale=), patches(size=, channels=, class_token=, mask_token=)
    c.model.prompt = 'none'  # soft(length=): learned vectors before every row; freeze the rest
    c.model.position = ''  # none, sinusoidal, learned, rope, alibi, t5, …: layers/positions.py
    c.model.mask = ''  # causal, window(size), chunked(size), prefix(length), prefix, full
    # Successive layers, repeated to the depth: masks, or layer(slot="spec") with what differs from
    # the model's slots (mask, mixer, cross, position, ffn, block, norm). (): all layers alike.
    c.model.pattern = ()  # ('window(512)', 'layer(mixer="rglru", position="none")')
    c.model.norm = ''  # rmsnorm(plus_one=), layernorm, dyt, none
    c.model.embed_norm = ''  # of the embedded inputs, positions included
    c.model.final_norm = ''  # of the last layer's output; '': as model.norm
    # attention(qk_norm=, weights=, gate=, …), value_residual, differential, mla(rank=, …), rglru,
    # linear_attention, retention, gated_deltanet, mamba2, gru, lstm, short_conv, gated_conv,
    # long_conv
    c.model.mixer = ''  # `launch.py parts mixer` lists them with their arguments
    # mlp, gated(activation=, hidden=, bias=), moe(experts=, top_k=, shared=), switch, expert_choice
    c.model.ffn = ''  # `launch.py parts ffn` lists them with their arguments
    c.model.block = ''  # prenorm(scale=), postnorm(skip=), sandwich, parallel, rezero; drop=
    # The encoder of an encoder-decoder has the slots above, but mask 'full' and its own pattern.
    c.model.encoder_depth = 0  # its layers; 0: no encoder
    c.model.encoder_pattern = ()  # as pattern, of the encoder's layers
    c.model.cross = ''  # how the decoder reads it: attention(qk_norm=, weights=, …); '': not
    c.model.share = 'none'  # all: repeats of the pattern share their parameters
    c.model.ahead = 'none'  # mtp(tokens=, weight=): also predicts tokens after the next
    # lm(tied=, scale=, chunk=), mlm(tied=, activation=, norm=, chunk=), detector,
    # classifier(pool=), regressor(pool=),
    c.model.head = ''  # token_classifier, span, pixels, joint(first=, second=) of the task joint
    # lora(rank=, alpha=, where=, dropout=), dora, qlora(block=, bits=): of a base in few bits
    c.model.adapter = 'none'  # freeze what it adapts
    c.model.init = ''  # normal(std=), gpt2(std=), fan_in(scale=, embed=), mup(base_width=, …)
    c.model.dropout = 0.0  # of embeddings and of every branch
    # reference, fused, cudnn, blockwise(block_size=), splash(block_size=) of a TPU,
    # ring(block_size=); auto: ring for rows that are split, else the first of cudnn and fused that
    # serves on a GPU, else reference
    c.model.kernel = 'auto'  # recorded in run.json
    # At the start, compare kernels with reference on random queries, keys and values of one row a
    # device, write the errors to run.json and stop when they are too large: one more compilation.
    c.model.check_kernel = False  # True: compare them
    c.model.dtype = 'auto'  # of computation; auto: bfloat16, on CPU float32
    # full, int8(gradients=, full=, scale=, tile=, stochastic=), fp8(…): products with weights, but
    c.model.matmul = 'full'  # those that a regex of the argument full= matches
    # none, full, dots, dots_no_batch, save(names=(...)), offload(names=(...), saved=(...)):
    c.model.remat = 'none'  # what backward recomputes; names are those of bigmodel/layers/names.py
    c.model.unroll = 0  # repeats of the pattern compiled as straight code; 0: all up to 8, else 1
    c.model.param_dtype = 'float32'  # of matrices between updates: float32, bfloat16

    c.optimizer = ConfigDict()
    c.optimizer.name = 'adamw'  # adamw(b1=, b2=), muon, lion, adafactor, sgd
    c.optimizer.learning_rate = 1e-3  # the schedule's peak
    c.optimizer.weight_decay = 0.1  # decoupled: multiplied by the learning rate
    c.optimizer.clip_norm = 1.0  # of the global gradient norm; 0: no clipping
    # Decay of an average of the trained weights, which evaluations, samples and runs that start
    c.optimizer.ema = 0.0  # from this one read instead of the last ones: 0.999; 0: none
    # Lists of (regex, value) over parameter paths: the first that matches from the start wins.
    c.optimizer.decay = (('.*/weight$', 1.0), ('.*', 0.0))  # of weight_decay: matrices alone
    c.optimizer.rates = (('.*', 1.0),)  # multipliers of the learning rate
    c.optimizer.train = (('.*', True),)  # False: frozen, without optimizer state
    c.optimizer.last_layers = 0  # freezes all below the last n layers too; 0: only what train does
    # Each layer's learning rate is this times that of the one above; the head has the whole one.
    c.optimizer.layer_decay = 1.0  # 0.65 to 0.95; 1: the same for all
    c.optimizer.state_dtype = 'float32'  # of moments between updates: float32, bfloat16
    c.optimizer.rounding = 'stochastic'  # to bfloat16: stochastic, nearest (small updates are lost)
    c.optimizer.master = False  # True: the state has float32 copies of bfloat16 parameters
    c.optimizer.offload = False  # True: the state waits in the host's memory between updates
    # none, fixed(scale=), dynamic(initial=, growth_interval=, factor=); auto: dynamic for float16
    c.optimizer.loss_scale = 'auto'  # a step whose gradients overflow changes nothing
    c.schedule = 'cosine(warmup_steps=100)'  # constant, linear, cosine, inverse_sqrt, wsd

    c.evals = ConfigDict()
    c.evals.validation = evaluation('validation')

    c.sharding = ConfigDict()
    # Axes pipeline, data, fsdp, expert, context, tensor; -1: all devices left. dcn_data=2 and its
    c.sharding.mesh = 'data=-1'  # kin: so many slices, 'dcn_data=2,fsdp=-1'
    # dp, pipeline, zero1, zero2, fsdp (ZeRO-3), expert, context (of kernel ring), tensor, sequence,
    c.sharding.rules = 'dp'  # and in this order joined by '_', 'pipeline_zero1_tensor': rules.py
    c.sharding.host_devices = 0  # on CPU; 0: as many as cores, if they divide the batch
    # Of axis pipeline: gpipe(microbatches=), circular(repeats=, microbatches=); microbatches=0: two
    c.sharding.pipeline = 'gpipe'  # for each stage where they divide the rows, else one

    c.checkpoint = ConfigDict()
    c.checkpoint.every = 500  # steps; the last step is always saved
    c.checkpoint.keep = 2  # newest ones kept
    c.checkpoint.keep_every = 0  # also keep multiples of this step; 0: none
    c.checkpoint.only_trained = False  # True: what is frozen is read again from init_from
    # Also save after an evaluation that is the best so far, and keep that: 'validation/loss',
    c.checkpoint.best = ''  # 'validation/f1: better=max'; '': none

    c.init_from = ConfigDict()
    c.init_from.path = ''  # a run directory to start from; '': initialise
    c.init_from.restore = (('(adapter|prompt)/.*', False), ('.*', True))  # regexes
    c.lock()
    c.evals.unlock()  # a run card may add evaluations
    return c


def evaluation(
    split: str,
    every: int = 200,
    batches: int = 0,
    scores: tuple = (),
    data: str = '',
    generate_rows: int = 64,
    max_tokens: int = 64,
) -> ConfigDict:
    """An entry of `evals`: every so many steps and at the end, on some batches (0: all).

    `scores` are computed beside the task's means (bigmodel/scores/table.py); `data` says where its
    data differs from the run's: 'source=jsonl path=other.jsonl'. Scores of generated texts are of
    `generate_rows` examples (0: all), evenly spread, and of `max_tokens` tokens at most.
    """
    entry = {'split': split, 'every': every, 'batches': batches, 'scores': scores, 'data': data}
    return ConfigDict(entry | {'generate_rows': generate_rows, 'max_tokens': max_tokens})
