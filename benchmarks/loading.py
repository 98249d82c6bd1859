"""Reading and augmenting a batch of training images, beside the step it is for.

    python benchmarks/loading.py [--data PATH] [--batch B...] [--json FILE]

The model is tiny-static; images are cropped from 4 pixels of padding and flipped, as for CIFAR-10. Without
``--data`` they are 50,000 random ones of 32 pixels.
"""

import argparse

import torch
from common import alternate, report, save, step_of

import neuralgraph as ng
from neuralgraph import data


def random_images():
    return data.ImageData("random", torch.randint(256, (50_000, 3, 32, 32), dtype=torch.uint8),
                          torch.randint(10, (50_000,)), torch.zeros(1, 3, 32, 32, dtype=torch.uint8),
                          torch.zeros(1, dtype=torch.long), tuple("0123456789"))


def batches_of(images, batch):
    """Batches of one epoch after the other, as training reads them."""
    augmentation = data.Augmentation(padding=4, flip=True)
    for epoch in range(10**6):
        order = data.training_order(images.num_train, 0, epoch)
        yield from images.train_batches(order.split(batch), augmentation, 0, epoch)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data")
    parser.add_argument("--batch", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    images = data.load(arguments.data) if arguments.data else random_images()
    results = []
    for batch in arguments.batch:
        model = ng.models.create("tiny-static", num_classes=len(images.classes),
                                 in_channels=images.channels, image_size=max(images.size))
        source = batches_of(images, batch)
        read = [next(source)]

        def load():
            pixels, labels = next(source)
            read[0] = images.normalise(pixels), labels

        times = alternate({"reading and augmenting": load,
                           "training step": step_of(model, lambda: read[0])}, arguments.rounds, warm_up=2)
        report(f"tiny-static, batch {batch}", times, "training step", results, batch=batch)
        share = times["reading and augmenting"].median / times["training step"].median
        results[-1]["share_of_step"] = share
        print(f"  reading and augmenting cost {100 * share:.1f} % of a step")
    save(arguments.json, results)
