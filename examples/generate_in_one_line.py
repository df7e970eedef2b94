"""One more line makes transformers' own `generate` faster: the same text, from the bundled pair.

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
PICTURE = Path(__file__).parent / "shapes.png"


class PictureProcessor(LlavaOnevisionProcessor):
    """The family's processor without its part for clips, which needs torchvision.

    Where that is installed, AutoProcessor.from_pretrained(PAIR / "target") does it all.
    """

    def __init__(self, image_processor, tokenizer, **settings):
        super().__init__(image_processor, tokenizer, None, **settings)


tokenizer = AutoTokenizer.from_pretrained(PAIR / "target")
processor = PictureProcessor(
    LlavaOnevisionImageProcessorPil.from_pretrained(PAIR / "target"),
    tokenizer,
    num_image_tokens=36,
    vision_feature_select_strategy="full",
    chat_template=tokenizer.chat_template,
)

# Two models of one family, as for assisted generation.
target = AutoModelForImageTextToText.from_pretrained(PAIR / "target", dtype=torch.float32)
draft = AutoModelForImageTextToText.from_pretrained(PAIR / "draft", dtype=torch.float32)

ask = [{"type": "image"}, {"type": "text", "text": "Describe this image in detail."}]
text = processor.apply_chat_template([{"role": "user", "content": ask}], add_generation_prompt=True)
inputs = processor(images=Image.open(PICTURE), text=text, return_tensors="pt")

plain = target.generate(**inputs, max_new_tokens=100)
faster = target.generate(
    **inputs, max_new_tokens=100, custom_generate=sage_core.custom_generate, draft_model=draft
)
assert torch.equal(plain, faster)
print(tokenizer.decode(faster[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))

# The same through a pipeline.
describe = pipeline("image-text-to-text", model=target, processor=processor)
messages = [{"role": "user", "content": [{"type": "image", "image": str(PICTURE)}, ask[1]]}]
speculating = {"custom_generate": sage_core.custom_generate, "draft_model": draft}
for more in ({}, speculating):
    answer = describe(
        text=messages, return_full_text=False, generate_kwargs={"max_new_tokens": 100, **more}
    )
    print(answer[0]["generated_text"])
