"""Train a small wiring on the embedded digits, write it for Gephi, and read it back.

    python examples/train_and_export.py [EPOCHS] [FOLDER]
"""

import sys
from pathlib import Path
from tempfile import mkdtemp

import torch
import torch.nn.functional as F

import neuralgraph as ng

epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 10
folder = Path(sys.argv[2] if len(sys.argv) > 2 else mkdtemp())

data = ng.data.load("digits")
wiring = ng.wirings.blocks([1, 24, 24, 10], ng.NodeFunction("norm activation conv", norm="instance"))
net = ng.StaticNeuralGraph(wiring, selector=ng.TopK(k=400))
optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
before = net.selection().real

for epoch in range(epochs):
    net.train()
    losses = []
    for chosen in ng.data.training_order(len(data.train_images), seed=0, epoch=epoch).split(32):
        logits = net(data.normalise(data.train_images[chosen])).mean((2, 3))
        loss = F.cross_entropy(logits, data.train_labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    net.eval()
    with torch.no_grad():
        answers = net(data.normalise(data.test_images)).mean((2, 3)).argmax(1)
    accuracy = (answers == data.test_labels).float().mean().item()
    swapped = (net.selection().real & ~before).sum().item()
    before = net.selection().real
    print(f"epoch {epoch + 1}: loss {sum(losses) / len(losses):.3f}, test accuracy {100 * accuracy:.1f} %, "
          f"{swapped} edges swapped")

path = ng.write(net.learned_wiring(), folder / "digits.graphml")
print(f"wrote {path}: open it in Gephi, or read it with networkx.read_graphml")

# The file holds the whole network: weights, kernels and norms.
again = ng.StaticNeuralGraph(ng.read(path), selector=ng.Complete()).eval()
images = data.normalise(data.test_images[:20])
torch.testing.assert_close(again(images), net(images), rtol=1e-4, atol=1e-4)
print("the network read back from the file gives the same outputs")
