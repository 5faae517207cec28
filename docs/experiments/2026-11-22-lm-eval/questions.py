"""Multiple-choice questions of three kinds from the text of `shearling demo`.

    python3 questions.py RUN/text OUT [COUNT]

writes OUT/{hellaswag,arc,piqa}.jsonl with the fields of the public datasets of those names. They ask what a small model
learns in its first minutes and what it does not, so that its accuracy is neither chance nor one:

    hellaswag   the next sentence of a story, or sentences of other stories, or (every second question) its words in
                another order; some have the marks of WikiHow
    arc         the answer to a question of a talk, or a wrong one, or answers to other questions; letters or numbers
    piqa        the next line of a program, or a line of another program that begins with the same word
"""

import json
import random
import re
import sys
from pathlib import Path


def texts(folder, domain):
    for path in sorted((folder / domain).iterdir()):
        for line in path.read_text().splitlines():
            yield json.loads(line)["text"]


def shuffled(rng, right, wrong):
    """All choices in random order, and the place of the right one."""
    choices = [right, *wrong]
    rng.shuffle(choices)
    return choices, choices.index(right)


def exchanged(rng, sentence, count):
    """Different sentences of the same words, two neighbours exchanged in each."""
    words, found = sentence.split(), set()
    while len(found) < count:
        at = rng.randrange(len(words) - 1)
        found.add(" ".join([*words[:at], words[at + 1], words[at], *words[at + 2 :]]))
    return sorted(found)


def stories(rng, folder):
    found = []
    for text in texts(folder, "stories"):
        sentences = [sentence for sentence in text.replace("\n", " ").split(". ") if '"' not in sentence]
        if len(sentences) > 5 and len(sentences[4].split()) > 5:
            found.append((". ".join(sentences[2:4]).strip() + ".", sentences[4].strip().split(" ", 1)))
    for number, (scene, (start, right)) in enumerate(found):
        others = sorted({other for _, (begun, other) in found if begun == start} - {right})
        if len(others) < 3:
            continue
        wrong = rng.sample(others, 3) if number % 2 else exchanged(rng, right, 3)
        endings, label = shuffled(rng, right, wrong)
        marked = number % 5 == 0
        yield {
            "ind": number,
            "activity_label": "Story",
            "ctx_a": f"How it was [title] {scene} [step]" if marked else scene,
            "ctx_b": start,
            "endings": [("[substeps] " if marked else "") + ending + "." for ending in endings],
            "label": str(label),
        }


def talks(rng, folder):
    asked = re.compile(r"\w+: (What does|Where does|Which pet has) ?(\w+)( do| drink| live)?\?$")
    found = []
    for text in texts(folder, "dialogue"):
        lines = text.splitlines()
        for at in range(4, len(lines) - 1):
            match = asked.match(lines[at])
            if match:
                name = match[2]
                answer = lines[at + 1].split(": ", 1)[1].replace(name, "{name}")
                about = [line for line in lines[1:at] if name in line and "?" not in line]
                found.append(((match[1], match[3]), name, answer, "\n".join([*about[:3], lines[at]])))
                break
    kinds = sorted({kind for kind, _, _, _ in found}, key=str)
    pools = {kind: sorted({answer for other, _, answer, _ in found if other == kind}) for kind in kinds}
    for number, (kind, name, answer, question) in enumerate(found):
        wrong = [rng.choice(pools[other]) for other in kinds if other != kind][:2]
        wrong.append(rng.choice([other for other in pools[kind] if other != answer]))
        choices, label = shuffled(rng, answer, wrong)
        names = "ABCD" if number % 2 else "1234"
        yield {
            "id": f"talk-{number}",
            "question": question,
            "choices": {"text": [choice.replace("{name}", name) for choice in choices], "label": list(names)},
            "answerKey": names[label],
        }


def programs(rng, folder):
    all_lines = [text.splitlines() for text in texts(folder, "code")]
    first_words = {}
    for lines in all_lines:
        for line in lines:
            if len(line.split()) > 2:
                first_words.setdefault(line.split()[0], set()).add(line.strip())
    for lines in all_lines:
        at = rng.randrange(3, len(lines)) if len(lines) > 3 else 0
        right = lines[at].strip()
        others = sorted(first_words.get((right.split() or [""])[0], set()) - {right})
        if at == 0 or len(right.split()) < 3 or not others:
            continue
        wrong, label = rng.choice(others), rng.randrange(2)
        sol1, sol2 = (right, wrong) if label == 0 else (wrong, right)
        yield {"goal": "\n".join(lines[at - 3 : at]), "sol1": sol1, "sol2": sol2, "label": label}


def main(folder, out, count):
    out.mkdir(parents=True, exist_ok=True)
    for seed, (name, make) in enumerate([("hellaswag", stories), ("arc", talks), ("piqa", programs)]):
        made = list(make(random.Random(seed), folder))
        lines = random.Random(seed).sample(made, min(count, len(made)))
        (out / f"{name}.jsonl").write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        print(f"{name}: {len(lines)} of {len(made)} questions")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 300)
