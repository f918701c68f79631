"""Mistakes in how forgetting in recognisers is measured."""

from tests.mutations.running import Mutation

_TESTS = "tests/evaluation"
_OF_METHODS = "tests/methods/test_forgetting_baselines.py"

RECOGNISING = (
    Mutation(
        "H is the arithmetic mean",
        "evaluation/forgetting_scores.py",
        "return 2 * fallen * retained / (fallen + retained)",
        "return (fallen + retained) / 2",
        (f"{_TESTS}/test_forgetting_scores.py",),
    ),
    Mutation(
        "CosFace's margin is put on instead of taken off",
        "evaluation/forgetting_scores.py",
        "-scale * margin",
        "scale * margin",
        (f"{_TESTS}/test_forgetting_scores.py",),
    ),
    Mutation(
        "equal scores count as won in an AUC",
        "evaluation/ranking.py",
        "(below + up_to).double()",
        "(up_to + up_to).double()",
        (f"{_TESTS}/test_ranking.py",),
    ),
    Mutation(
        "modified entropy takes p for 1 - p, as a released code does",
        "evaluation/membership.py",
        "true = -(rest.exp() * logs)",
        "true = -(logs.exp() * logs)",
        (f"{_TESTS}/test_membership.py",),
    ),
    Mutation(
        "U-LiRA asks a model by a fit that it is in",
        "evaluation/membership.py",
        "fits = (_left_out(first, one), _left_out(second, other))",
        "fits = (first, second)",
        (f"{_TESTS}/test_membership.py",),
    ),
    Mutation(
        "KLoM has its ensembles the other way round",
        "evaluation/retraining.py",
        "return 0.5 * ((q / p).log() + (p + shift) / q - 1)",
        "return 0.5 * ((p / q).log() + (q + shift) / p - 1)",
        (f"{_TESTS}/test_retraining.py",),
    ),
    Mutation(
        "a box is found as often as it is detected",
        "evaluation/detection.py",
        "free[:, box] = -1",
        "pass",
        (f"{_TESTS}/test_detection.py",),
    ),
    Mutation(
        "precision is not the best at a recall or more",
        "evaluation/detection.py",
        "best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]",
        "best = precision",
        (f"{_TESTS}/test_detection.py",),
    ),
    Mutation(
        "a model that says one class of everything is no wreck",
        "evaluation/recognition_controls.py",
        "details += _one_class(after)",
        "details += []",
        (f"{_TESTS}/test_recognition.py",),
    ),
    Mutation(
        "unlearnings take the variance of their evaluations, too",
        "evaluation/variance.py",
        "lower = squares[level + 1] if level + 1 < levels else 0.0",
        "lower = 0.0",
        (f"{_TESTS}/test_variance.py",),
    ),
    Mutation(
        "classes without pictures are kept low instead of left out",
        "training/distilling.py",
        "return logits.masked_fill(left_out, -torch.inf)",
        "return logits.masked_fill(left_out, 0.0)",
        (_OF_METHODS,),
    ),
    Mutation(
        "erased classes are held below zero instead of below a picture's mean",
        "training/distilling.py",
        "standard = (logits - logits.mean(1, keepdim=True)) / spread",
        "standard = logits / spread",
        (_OF_METHODS,),
    ),
)
