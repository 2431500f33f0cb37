"""`python -m sweeps`: what each file here asks."""

from __future__ import annotations

from sweeps import questions

if __name__ == "__main__":
    asked = {name: question.question for name, question in questions().items()}
    width = max(map(len, asked))
    print("\n".join(f"{name:<{width}}  {question}" for name, question in asked.items()))
