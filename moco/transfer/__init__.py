"""What a pre-trained encoder is worth elsewhere: object detection, instance and semantic segmentation."""
