"""What a pre-trained encoder is worth elsewhere: object detection, instance and semantic segmentation.

`tasks.transfer` takes an encoder to its readouts. `recipes` says how, by name; `data` opens VOC, COCO and the embedded
`scenes` as splits of `samples`; `stages`, `detector` and `segmenter` are the networks; `train` fine-tunes one; `scores`
counts.
"""
