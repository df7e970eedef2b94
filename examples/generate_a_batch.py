"""A padded batch in one call of `generate`: prompts of different lengths, one draft tree each.

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


class ImageTextProcessor(LlavaOnevisionProcessor):
    """LLaVA-OneVision's processor without its video processor, which requires torchvision.

    With torchvision installed, use AutoProcessor.from_pretrained(PAIR / "target") instead.
    """

    def __init__(self, image_processor, tokenizer, **options):
        super().__init__(image_processor, tokenizer, None, **options)


tokenizer = AutoTokenizer.from_pretrained(PAIR / "target", padding_side="left")
processor = ImageTextProcessor(
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


def make_inputs(questions):
    """Model inputs for questions about one image each, padded on the left."""
    conversations = [
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
        for _, question in questions
    ]
    prompts = [
        processor.apply_chat_template(conversation, add_generation_prompt=True)
        for conversation in conversations
    ]
    images = [[Image.open(HERE / file)] for file, _ in questions]
    return processor(images=images, text=prompts, padding=True, return_tensors="pt")


def generate(questions, **arguments):
    """The answers to all questions, decoded in one call of `generate`."""
    inputs = make_inputs(questions)
    ids = target.generate(**inputs, max_new_tokens=100, **arguments)
    new = ids[:, inputs["input_ids"].shape[1] :]
    return tokenizer.batch_decode(new, skip_special_tokens=True)


# Each text of the batch equals the one that plain `generate` writes for its prompt alone.
answers = generate(QUESTIONS, custom_generate=sage_core.custom_generate, draft_model=draft)
assert answers == [generate([question])[0] for question in QUESTIONS]
print(*answers, sep="\n")
