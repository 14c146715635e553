"""Reference models: deep networks of six families, each a chain of blocks that can be checkpointed anywhere.

One file per family; every public function of a family file is a factory. `plain.mlp(depth=8, width=64)`
returns `(module, batch)`, or `(module, batch, loss_fn)` where the mean of squares over the output is not the
loss. All arguments are keywords with defaults; the defaults are deep but small, a step takes milliseconds.
The caller seeds torch.

What holds for every module here:

- its deep part is one `nn.Sequential`, called `blocks` (`body` where the chain is layers rather than blocks);
  stems and heads stand outside it;
- what crosses a block boundary is one value, a tensor or a flat tuple of tensors. Each block takes it and
  returns the next, changes nothing in place that it was given, and reads no tensor any other way. So any run
  of blocks can be recomputed from the value at its start.

Beside the standard library the files import torch alone, so each can be copied into another project as it is.
"""
