"""The authors' code in this library's training loop: what is their accuracy on the same images?

    python benchmarks/accuracy.py --authors CHECKOUT --data PATH [--recipe table1-static-dnw] [--set KEY=VALUE]

The model is that of allenai/dnw for the recipe's setting and selector, everything else the recipe's: the
order of the images, their augmentation, optimizer and learning rate. Compare with
``neuralgraph train RECIPE`` and the same settings.
"""

import argparse
import time

import torch
import torch.nn.functional as F
from common import authors_model, save

from neuralgraph import data
from neuralgraph.training import RECIPES, keep_freed_memory

NAMES = {"static": "tiny-static", "discrete": "tiny-discrete"}
GRAPHS = {"dnw": "dnw", "rg": "random"}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--authors", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--recipe", default="table1-static-dnw",
                        choices=[f"table1-{setting}-{row}" for setting in NAMES for row in GRAPHS])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    keep_freed_memory()
    recipe = RECIPES[arguments.recipe].with_settings(dict(text.split("=", 1) for text in arguments.set))
    _, setting, row = arguments.recipe.split("-")
    images = data.load(arguments.data)
    model = authors_model(arguments.authors, NAMES[setting], graph=GRAPHS[row], seed=recipe.seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=recipe.lr, momentum=recipe.momentum,
                                weight_decay=recipe.weight_decay)
    augmentation = data.Augmentation(recipe.crop_padding, recipe.flip)
    rows, step = [], 0
    for epoch in range(recipe.epochs):
        began, total = time.perf_counter(), 0.0
        model.train()
        batches = data.training_order(images.num_train, recipe.seed, epoch).split(recipe.batch_size)
        for pixels, labels in images.train_batches(batches, augmentation, recipe.seed, epoch):
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate(step, len(batches))
            loss = F.cross_entropy(model(images.normalise(pixels)), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(labels)
            step += 1
        model.eval()
        with torch.no_grad():
            right = sum(int((model(images.normalise(pixels)).argmax(1) == labels).sum()) for pixels, labels
                        in images.test_batches(torch.arange(images.num_test).split(500)))
        rows.append({"epoch": epoch + 1, "train_loss": total / images.num_train,
                     "test_accuracy": 100 * right / images.num_test,
                     "seconds": time.perf_counter() - began})
        print("epoch {epoch}  loss {train_loss:.4f}  test {test_accuracy:.2f} %  {seconds:.0f} s".format(
            **rows[-1]), flush=True)
    save(arguments.json, [{"title": f"the authors' code, {arguments.recipe}", "recipe": recipe.to_json(),
                           "epochs": rows}])
