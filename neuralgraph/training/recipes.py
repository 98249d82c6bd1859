"""The recipes that come with the library: quick ones, and one for every row of the paper's tables.

Those of a table are made of a setting (model and schedule; the authors' code, the paper's sections 3.1
to 3.3) and a way to choose the edges. What decides a row stands here once.
"""

from __future__ import annotations

from typing import Any

from .recipe import Recipe

DIGITS: dict[str, Any] = {"batch_size": 32, "crop_padding": 0, "flip": False}
# Table 1: batch 512, the rate divided by ten after half and three quarters of 160 epochs
SMALL_SCALE: dict[str, Any] = {"data": None, "k": 32_000, "batch_size": 512, "schedule": "step", "milestones": (80, 120)}
# Table 2: batch 128, cosine over 160 epochs
CIFAR: dict[str, Any] = {"data": None, "model": "mobilenet-dnw", "width": 0.225}
# Table 3: batch 512, cosine over 250 epochs, half the weight decay
IMAGENET: dict[str, Any] = {"data": None, "model": "mobilenet-dnw", "image_size": 224, "epochs": 250,
                            "batch_size": 512, "weight_decay": 5e-5, "resized_crop": True, "crop_padding": 0}
HAND_MADE: dict[str, Any] = {"model": "mobilenet-v1", "selector": "complete"}
FROM_COMPLETE = "from the complete graph (--set source=RUN)"

MODELS = (
    Recipe("tiny-static", "the static classifier of Table 1, 300 edges, on the embedded digits",
           k=300, epochs=12, **DIGITS),
    Recipe("tiny-discrete", "the discrete-time classifier of Table 1, on the embedded digits",
           model="tiny-discrete", lr=0.05, epochs=5, **DIGITS),
    Recipe("tiny-continuous", "the continuous-time classifier of Table 1, on the embedded digits",
           model="tiny-continuous", lr=0.05, epochs=3, **DIGITS),
    Recipe("tiny-convnet", "sparse layers, 2,000 weights, on the embedded digits",
           model="tiny-convnet", k=2000, epochs=12, **DIGITS),
    Recipe("mobilenet-dnw", "MobileNetV1-DNW x 0.225, 160 epochs", **CIFAR),
    Recipe("mobilenet-dnw-small", "MobileNetV1-DNW-Small x 0.225, 160 epochs",
           **{**CIFAR, "model": "mobilenet-dnw-small"}),
    Recipe("mobilenet-v1", "the hand-made MobileNetV1 x 0.25, 160 epochs",
           **{**CIFAR, **HAND_MADE, "width": 0.25}),
)

TABLE_1 = tuple(
    Recipe(f"table1-{setting}-{row}", f"{title}, {edges}", model=f"tiny-{setting}", selector=selector,
           **SMALL_SCALE)
    for setting, title in (("static", "static"), ("discrete", "discrete time"),
                           ("continuous", "continuous time"))
    for row, selector, edges in (("rg", "random", "32,000 random edges"),
                                 ("dnw", "dnw", "32,000 discovered edges")))

WAYS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("rg", "MobileNetV1-RG x 0.225, random edges", {"selector": "random"}),
    ("no-update", "no update rule for hallucinated edges", {"selector": "no-update"}),
    ("l1-anneal", "L1 + anneal", {"selector": "l1-anneal", "l1": 1e-5}),
    ("targeted-dropout", "targeted dropout, rho = 0.95",
     {"selector": "targeted-dropout", "drop": 0.95}),
    ("complete", "all edges, where the next four begin", {"selector": "complete", "width": None}),
    ("lottery-ticket", f"lottery ticket, one shot, {FROM_COMPLETE}", {"selector": "lottery-ticket"}),
    *((f"fine-tune-{rate}", f"fine-tune, alpha = {rate}, {FROM_COMPLETE}",
       {"selector": "fine-tune", "lr": rate}) for rate in (0.1, 0.01, 0.001)),
    ("dnw", "MobileNetV1-DNW x 0.225", {}),
)

TABLE_2 = (
    Recipe("table2-mobilenet-v1", "the hand-made MobileNetV1 x 0.25",
           **{**CIFAR, **HAND_MADE, "width": 0.25}),
    *(Recipe(f"table2-{row}", description, **{**CIFAR, **choice}) for row, description, choice in WAYS),
)

TABLE_3 = (
    *(Recipe(f"imagenet-mobilenet-v1-{width}", f"the hand-made MobileNetV1 x {width}",
             **{**IMAGENET, **HAND_MADE, "width": width}) for width in (0.25, 0.5)),
    *(Recipe(f"imagenet-rg-{width}", f"MobileNetV1-RG x {width}, random edges",
             **{**IMAGENET, "selector": "random", "width": width}) for width in (0.225, 0.49)),
    *(Recipe(f"imagenet-dnw-small-{width}", f"MobileNetV1-DNW-Small x {width}",
             **{**IMAGENET, "model": "mobilenet-dnw-small", "width": width}) for width in (0.15, 0.225)),
    *(Recipe(f"imagenet-dnw-{width}", f"MobileNetV1-DNW x {width}", **{**IMAGENET, "width": width})
      for width in (0.225, 0.3, 0.49)),
)

GROUPS = {
    "models: the first four on the embedded digits, the others want --data": MODELS,
    "the paper's Table 1: 160 epochs on CIFAR-10 (give --data)": TABLE_1,
    "the paper's Table 2: 160 epochs on CIFAR-10 (give --data)": TABLE_2,
    "the paper's Table 3: 250 epochs on ImageNet (give --data)": TABLE_3,
}
RECIPES = {recipe.name: recipe for group in GROUPS.values() for recipe in group}
