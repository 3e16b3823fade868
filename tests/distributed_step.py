"""Compare the gradients of two ranks, each with a part of a batch, with those of one process with the whole batch.

torchrun runs this file (test_toolchain). The losses divide by the counts of the whole batch over the number of ranks,
because both wrappers average the gradients of the ranks.
"""

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import electra_kernels as ek
from electra_kernels.nn import DiscriminatorHead, GeneratorHead

V, E, T, K, BATCH = 61, 8, 20, 4, 7
PARTS = (slice(0, 2), slice(2, BATCH))  # ranks with unequal numbers of rows


class JointStep(nn.Module):
    def __init__(self):
        super().__init__()
        self.generator, self.discriminator = (
            nn.Sequential(nn.Embedding(V, E), nn.Linear(E, E)) for _ in "gd"
        )
        self.mlm, self.rtd = GeneratorHead(E, V), DiscriminatorHead(E)

    def forward(self, ids, mask_uniforms, uniforms, counts):
        masked = mask(ids, mask_uniforms)
        hidden = ek.gather_rows(self.generator(masked.input_ids), masked.positions)
        mlm = self.mlm(hidden, masked.targets, normalizer=counts[0], uniforms=uniforms)
        replaced = ek.replace_tokens(ids, masked.positions, mlm.tokens)
        hidden = self.discriminator(replaced.input_ids)
        return mlm.loss + 50 * self.rtd(hidden, replaced.is_replaced, ids > 0, normalizer=counts[1]).loss


def mask(ids, uniforms):
    return ek.mask_tokens(ids, ids > 5, mask_token_id=3, vocab_size=V, max_predictions=K, uniforms=uniforms)


def model():
    torch.manual_seed(0)
    return JointStep()


def distributed_model(kind):
    if kind == "ddp":
        return DistributedDataParallel(model())
    joint = model()
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for part in (joint.generator, joint.discriminator, joint.mlm, joint.rtd, joint):
        fully_shard(part, mesh=mesh)
    return joint


def gradients(module):
    grads = [parameter.grad for parameter in module.parameters()]
    return [grad.full_tensor() if hasattr(grad, "full_tensor") else grad for grad in grads]


def main():
    dist.init_process_group("gloo")
    torch.manual_seed(1)
    ids = torch.randint(0, V, (BATCH, T))
    batch = (ids, ek.draw_uniforms((BATCH, K, 2)), ek.draw_uniforms((BATCH, K)))
    counts = torch.stack([(mask(*batch[:2]).targets >= 0).sum(), (ids > 0).sum()]).double()
    part = [value[PARTS[dist.get_rank()]] for value in batch]
    for backend in [name for name, devices in ek.backends().available.items() if "cpu" in devices]:
        with ek.use_backend(backend):
            whole = model()
            whole(*batch, counts).backward()
            for kind in ("ddp", "fully_shard"):
                ours = distributed_model(kind)
                ours(*part, counts / dist.get_world_size()).backward()
                for gradient, expected in zip(gradients(ours), gradients(whole)):
                    torch.testing.assert_close(gradient, expected)
                print(f"rank {dist.get_rank()}: {kind} with {backend} is right", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
