"""`look`: pictures of what a network is shown and of what it has learned, on one HTML page.

views      two augmented views of a few images, for one config or for each arm
learned    neighbours, a plane of the embedding, confusions and mistakes on the validation images
sprite     all pictures of a page in one image
page       the page
"""
