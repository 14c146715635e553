"""Networks of other libraries that people train with."""

from __future__ import annotations

from functools import partial

import torch
from tests.zoo.network import Made, network, package

geometric = partial(network, library="torch_geometric")


def _graph(nodes: int = 512, edges: int = 4096, width: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(nodes, width), torch.randint(0, nodes, (2, edges))


@geometric("graph network", "plain chain")
def gcn() -> Made:
    return package("torch_geometric.nn").GCN(32, 64, num_layers=5, out_channels=8, dropout=0.1), _graph()


@geometric("graph network", "plain chain")
def gat() -> Made:
    return package("torch_geometric.nn").GAT(32, 32, num_layers=4, out_channels=8, heads=4, v2=True), _graph()


@geometric("graph network", "plain chain")
def graph_sage() -> Made:
    return package("torch_geometric.nn").GraphSAGE(32, 64, num_layers=5, out_channels=8, norm="layer"), _graph()


@geometric("graph network", "skips")
def gin_jumping() -> Made:
    """The results of all layers are concatenated."""
    return package("torch_geometric.nn").GIN(32, 64, num_layers=5, out_channels=8, jk="cat"), _graph()


@geometric("graph network", "own checkpoints")
def deep_gcn() -> Made:
    """`DeepGCNLayer` checkpoints its convolution itself."""
    nn = package("torch_geometric.nn")

    class DeeperGCN(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = torch.nn.Linear(32, 64)
            self.layers = torch.nn.ModuleList(
                nn.DeepGCNLayer(
                    nn.GENConv(64, 64, num_layers=2),
                    torch.nn.LayerNorm(64),
                    torch.nn.ReLU(inplace=True),
                    block="res+",
                    dropout=0.1,
                    ckpt_grad=True,
                )
                for _ in range(5)
            )

        def forward(self, x: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            for layer in self.layers:
                x = layer(x, edges)
            return x

    return DeeperGCN(), _graph()


@geometric("graph network", "tuples")
def schnet() -> Made:
    """Energies of molecules from the positions of their atoms."""
    model = package("torch_geometric.nn").SchNet(hidden_channels=64, num_filters=64, num_interactions=4, cutoff=10.0)
    model.interaction_graph = _AllPairs()
    return model, (torch.randint(1, 10, (48,)), torch.randn(48, 3) * 3, torch.arange(48) // 12)


class _AllPairs(torch.nn.Module):
    """The edges and their lengths, without the compiled package that the library finds neighbours with."""

    def forward(self, positions: torch.Tensor, molecule: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        same = (molecule[:, None] == molecule) & ~torch.eye(len(molecule), dtype=torch.bool)
        edges = same.nonzero().T
        return edges, (positions[edges[0]] - positions[edges[1]]).norm(dim=-1)
