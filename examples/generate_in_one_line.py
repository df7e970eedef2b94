"""Speculative decoding inside transformers' own `generate`: two more arguments, the same text.

python examples/generate_in_one_line.py
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
from transformers.pipelines import pipeline

import sage_core

PAIR = Path(sage_core.__file__).parent / "assets" / "sage-tiny"
IMAGE = Path(__file__).parent / "shapes.png"


class ImageTextProcessor(LlavaOnevisionProcessor):
    """LLaVA-OneVision's processor without its video processor, which requires torchvision.

    With torchvision installed, use AutoProcessor.from_pretrained(PAIR / "target") instead.
    """

    def __init__(self, image_processor, tokenizer, **options):
        super().__init__(image_processor, tokenizer, None, **options)


tokenizer = AutoTokenizer.from_pretrained(PAIR / "target")
processor = ImageTextProcessor(
    LlavaOnevisionImageProcessorPil.from_pretrained(PAIR / "target"),
    tokenizer,
    num_image_tokens=36,
    vision_feature_select_strategy="full",
    chat_template=tokenizer.chat_template,
)

# A target and a smaller draft of the same family, as for assisted generation.
target = AutoModelForImageTextToText.from_pretrained(PAIR / "target", dtype=torch.float32)
draft = AutoModelForImageTextToText.from_pretrained(PAIR / "draft", dtype=torch.float32)

request = {"type": "text", "text": "Describe this image in detail."}
messages = [{"role": "user", "content": [{"type": "image"}, request]}]
prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
inputs = processor(images=Image.open(IMAGE), text=prompt, return_tensors="pt")

plain = target.generate(**inputs, max_new_tokens=100)
speculative = target.generate(
    **inputs, max_new_tokens=100, custom_generate=sage_core.custom_generate, draft_model=draft
)
assert torch.equal(plain, speculative)
print(tokenizer.decode(speculative[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))

# The same through a pipeline, first without and then with speculative decoding.
describe = pipeline("image-text-to-text", model=target, processor=processor)
messages = [{"role": "user", "content": [{"type": "image", "image": str(IMAGE)}, request]}]
speculation = {"custom_generate": sage_core.custom_generate, "draft_model": draft}
for arguments in ({}, speculation):
    answer = describe(
        text=messages, return_full_text=False, generate_kwargs={"max_new_tokens": 100, **arguments}
    )
    print(answer[0]["generated_text"])
