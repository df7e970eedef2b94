"""Several prompts in one `generate`, of different lengths, each with a tree of its own.

python examples/generate_a_batch.py
"""

from pathlib import Path

import torch
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
    AutoTokenizer,
    LlavaOnevisionImageProcessorPil,
    LlavaOnevisionProcessor,
)

import sage_core

PAIR = Path(sage_core.__file__).parent / "assets" / "sage-tiny"
HERE = Path(__file__).parent


class PictureProcessor(LlavaOnevisionProcessor):
    """The family's processor without its part for clips, which needs torchvision.

    Where that is installed, AutoProcessor.from_pretrained(PAIR / "target") does it all.
    """

    def __init__(self, image_processor, tokenizer, **settings):
        super().__init__(image_processor, tokenizer, None, **settings)


tokenizer = AutoTokenizer.from_pretrained(PAIR / "target", padding_side="left")
processor = PictureProcessor(
    LlavaOnevisionImageProcessorPil.from_pretrained(PAIR / "target"),
    tokenizer,
    num_image_tokens=36,
    vision_feature_select_strategy="full",
    chat_template=tokenizer.chat_template,
)
target = AutoModelForImageTextToText.from_pretrained(PAIR / "target", dtype=torch.float32)
draft = AutoModelForImageTextToText.from_pretrained(PAIR / "draft", dtype=torch.float32)

QUESTIONS = [
    ("shapes.png", "Describe this image in detail."),
    ("chart.png", "Which bar is the tallest?"),
    ("shapes.png", "How many shapes are there?"),
]


def asked(questions):
    """What the processor makes of questions about one picture each, padded on the left."""
    talks = [
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
        for _, question in questions
    ]
    texts = [processor.apply_chat_template(talk, add_generation_prompt=True) for talk in talks]
    pictures = [[Image.open(HERE / file)] for file, _ in questions]
    return processor(images=pictures, text=texts, padding=True, return_tensors="pt")


def answers(inputs, **more):
    """The answers to all of them."""
    ids = target.generate(**inputs, max_new_tokens=100, **more)
    new = ids[:, inputs["input_ids"].shape[1] :]
    return tokenizer.batch_decode(new, skip_special_tokens=True)


speculating = {"custom_generate": sage_core.custom_generate, "draft_model": draft}
together = answers(asked(QUESTIONS), **speculating)
alone = [answers(asked([question]))[0] for question in QUESTIONS]
assert together == alone
print(*together, sep="\n")
