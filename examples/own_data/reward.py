"""A reward of your own, with the signature that TRL's trainers use.

Every argument is a list with one item per completion. `colours` is a column of the data file; any other column
(and `question`, `answer`, `choices`, `id`, `skill`, `completion_ids`) can be taken the same way.
"""


def names_the_shapes(prompts, completions, colours, **columns):
    """The share of the picture's colours that the thought names, 0 to 1; None if there is no thought."""
    rewards = []
    for completion, present in zip(completions, colours, strict=True):
        thought, closed, _ = completion.partition("</think>")
        rewards.append(sum(colour in thought for colour in present) / len(present) if closed else None)
    return rewards
