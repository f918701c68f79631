"""Invariants of GS-LoRA and of the baselines, each by itself (the notes' lists)."""

import math
import random

import pytest
import torch
from torch.nn import functional

from efface import registry
from efface.concepts import Concept, request
from efface.data.pictures import Part, without_classes
from efface.errors import BadRequest, NothingChanged
from efface.methods.gs_lora import GsLora
from efface.methods.last_layers import LastLayers
from efface.methods.random_labels import RandomLabels
from efface.methods.scrub import Scrub
from efface.methods.selective_dampening import SelectiveDampening
from efface.runs.forgetting import ForgettingRun
from efface.runs.prototypes import prototype_divergence
from efface.training.distilling import above_the_rest, answers_apart, leaving_out
from efface.training.group_sparsity import group_norms, shrunk
from efface.training.solving import conjugate_gradients
from tests.conformance.test_forgetting import GONE, asked, run
from tests.pictures import knowing, stripes


def drawn(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def started(method, model=None):
    """A run that has opened its pictures and trained nothing."""
    model = model or knowing()
    generator = torch.Generator().manual_seed(0)
    return ForgettingRun(method, model, asked(model), generator=generator, monitor=lambda *_: None)


class TestGroups:
    def test_the_penalty_is_homogeneous_and_blind_to_order(self):
        first, second = drawn((2, 5), (7, 2)), drawn((3, 4), (6, 3), seed=1)
        norms = group_norms([first, second])
        scaled = group_norms([[-3 * one for one in first], second])
        assert scaled[0] == pytest.approx(3 * float(norms[0]), rel=1e-6)
        assert torch.equal(group_norms([second, first]), norms.flip(0))

    def test_its_slope_is_the_direction_and_zero_at_zero(self):
        group = [one.requires_grad_() for one in drawn((2, 5), (7, 2))]
        (norm,) = group_norms([group])
        norm.backward()
        for one in group:
            torch.testing.assert_close(one.grad, one.detach() / norm.detach())
        nothing = [torch.zeros(3, requires_grad=True)]
        group_norms([nothing]).sum().backward()
        assert not nothing[0].grad.any()

    def test_shrinking_is_the_proximal_step(self):
        """g max(0, 1 - lambda / |g|), worked out: |(3, 4)| = 5, less 1 is 4/5 of it."""
        (found,) = shrunk([torch.tensor([3.0, 4.0])], 1.0)
        torch.testing.assert_close(found, torch.tensor([2.4, 3.2]))
        (gone,) = shrunk([torch.tensor([3.0, 4.0])], 5.0)
        assert not gone.any()

    def test_shrinking_never_moves_two_groups_apart(self):
        (first,), (second,) = drawn((9,)), drawn((9,), seed=1)
        near = (shrunk([first], 0.7)[0] - shrunk([second], 0.7)[0]).norm()
        assert near <= (first - second).norm()

    @pytest.mark.thorough
    def test_blocks_that_are_not_needed_are_exactly_zero_and_left_out(self):
        model = knowing()
        settings = {"epochs": 0.0, "steps": 12, "rank": 2, "replay": 1.0}
        some = GsLora(**settings, group_weight=2e2, group_warmup=0.5)
        every = GsLora(**settings, group_weight=1e-3)
        found = run(every, model, asked(model))
        assert found.diagnostics["zero_group_ratio"] == 0.0
        assert found.diagnostics["trained_parameters"] == 2 * 2 * 2 * (16 + 32)
        with pytest.raises(NothingChanged, match="changed no weight"):
            from efface.runs.checks import inspect

            inspect(model, run(some, model, asked(model)).delta, asked(model))


class TestPrototypes:
    @pytest.mark.thorough
    @pytest.mark.parametrize("which", [{}, {"distil_mixed": True}, {"distil_erased": True}])
    def test_held_answers_stay_nearer_to_what_they_were(self, which):
        """Also those of a class without a picture, whose share of the answers is held, too."""
        model = knowing()
        wanted, unseen = asked(model), 5
        data = without_classes(wanted.retain_data, [unseen])
        wanted = type(wanted)(erasures=wanted.erasures, retain_data=data)
        pixels = model.prepared(data.read(range(len(data))))
        with torch.no_grad():
            before = model.model(pixel_values=pixels).logits
        apart = {}
        for weight in (0.0, 5.0):
            method = GsLora(
                epochs=6.0, batch=12, replay=1.0, distil=weight, **(which if weight else {})
            )
            made = run(method, model, wanted)
            with made.delta.apply(model), torch.no_grad():
                after = model.model(pixel_values=pixels).logits
            apart[weight] = float(answers_apart(before, after))
        assert 0 < apart[5.0] < 0.7 * apart[0.0]

    def test_a_class_that_is_left_out_is_moved_by_no_retained_picture(self):
        logits = drawn((4, 6))[0].requires_grad_()
        found = functional.cross_entropy(leaving_out(logits, (2,)), torch.tensor([0, 1, 3, 5]))
        others = logits[:, [0, 1, 3, 4, 5]]
        wanted = functional.cross_entropy(others, torch.tensor([0, 1, 2, 4]))
        torch.testing.assert_close(found, wanted)
        found.backward()
        assert not logits.grad[:, 2].any()
        assert logits.grad[:, [0, 1, 3, 4, 5]].all()
        assert leaving_out(logits, ()) is logits

    @pytest.mark.parametrize("which", ["distil_mixed", "distil_erased"])
    def test_what_is_held_without_a_weight_is_refused(self, which):
        with pytest.raises(BadRequest, match="need a weight of distil"):
            GsLora(**{which: True})

    def test_settings_that_erase_nothing_are_refused(self):
        with pytest.raises(BadRequest, match="nothing else erases"):
            GsLora(forget_weight=0.0)
        assert GsLora(forget_weight=0.0, suppress=1.0).suppress

    @pytest.mark.thorough
    def test_an_unseen_class_is_not_pushed_away_where_it_is_left_out(self):
        model = knowing()
        wanted, unseen = asked(model), 5
        data = without_classes(wanted.retain_data, [unseen])
        wanted = type(wanted)(erasures=wanted.erasures, retain_data=data)
        pixels = model.prepared(asked(model).retain_data.read(range(24)))
        said = {}
        for way in ("compete", "left_out"):
            method = GsLora(
                epochs=30.0, batch=12, replay=1.0, alpha=8.0, forget_weight=1e-6, unseen=way
            )
            made = run(method, model, wanted)
            with made.delta.apply(model), torch.no_grad():
                answers = model.model(pixel_values=pixels).logits.log_softmax(1)
            said[way] = float(answers[:, unseen].mean())
        with torch.no_grad():
            before = model.model(pixel_values=pixels).logits.log_softmax(1)[:, unseen].mean()
        assert said["compete"] < float(before) - 0.1
        assert said["left_out"] > said["compete"] + 0.1

    def test_a_feature_at_its_prototype_is_not_apart_and_has_no_slope(self):
        (prototype,) = drawn((4, 6))
        features = prototype.clone().requires_grad_()
        apart = prototype_divergence(prototype, features)
        apart.sum().backward()
        torch.testing.assert_close(apart, torch.zeros(4), atol=1e-6, rtol=0)
        torch.testing.assert_close(features.grad, torch.zeros(4, 6), atol=1e-6, rtol=0)

    def test_it_is_the_divergence_of_softmaxes(self):
        p, q = drawn((1, 5), (1, 5))
        wanted = (p.softmax(1) * (p.log_softmax(1) - q.log_softmax(1))).sum()
        assert float(prototype_divergence(p, q)) == pytest.approx(float(wanted), rel=1e-5)


class TestSuppression:
    def test_only_what_is_above_the_margin_counts(self):
        """Logits 4, 0, 0, 0: mean 1, deviation 2, so that standard ones are 1.5 and -0.5."""
        logits = torch.tensor([[4.0, 0.0, 0.0, 0.0]])
        assert float(above_the_rest(logits, (0,), margin=0.5)) == pytest.approx(2.0)
        assert float(above_the_rest(logits, (1, 2), margin=0.25)) == 0.0
        assert float(above_the_rest(logits, (0, 1), margin=1.0)) == pytest.approx((2.5 + 0.5) / 2)

    def test_it_knows_no_scale(self):
        (logits,) = drawn((5, 7))
        wanted = above_the_rest(logits, (2, 3), margin=1.0)
        torch.testing.assert_close(above_the_rest(30 * logits + 4, (2, 3), margin=1.0), wanted)

    @pytest.mark.thorough
    def test_classes_end_below_the_others_in_pictures_of_which_none_was_seen(self):
        model = knowing()
        wanted = asked(model)
        kept = model.prepared(wanted.retain_data.read(range(24)))
        found = {}
        for weight in (0.0, 2.0):
            method = GsLora(epochs=20.0, batch=12, replay=1.0, alpha=8.0, suppress=weight)
            made = run(method, model, wanted)
            with made.delta.apply(model), torch.no_grad():
                logits = model.model(pixel_values=kept).logits
            found[weight] = float(above_the_rest(logits, (GONE,), margin=1.0))
        assert found[2.0] < 0.5 * found[0.0]

    def test_single_pictures_have_no_class_to_be_lowered(self):
        model = knowing()
        data = asked(model).retain_data
        wanted = type(asked(model))(
            erasures=request(Concept(name="these", kind="content")).erasures,
            forget_data=Part(data, torch.arange(4)),
            retain_data=Part(data, torch.arange(4, len(data))),
        )
        with pytest.raises(BadRequest, match="erases pictures of classes that stay"):
            run(GsLora(suppress=1.0), model, wanted)


class TestBound:
    def test_past_it_nothing_is_pushed_and_below_it_the_slope_is_one(self):
        losses = torch.tensor([1.0, 3.0], requires_grad=True)
        method = GsLora(hinge="picture")
        method._hinged(losses, 2.0).backward()
        torch.testing.assert_close(losses.grad, torch.tensor([-0.5, 0.0]))

    def test_by_default_it_is_what_a_guess_costs(self):
        assert GsLora()._bound(started(GsLora()).host) == pytest.approx(math.log(6))
        margin = GsLora()._bound(started(GsLora(), knowing("recogniser")).host)
        assert margin == pytest.approx(math.log(6) + 32 * 0.2)

    def test_one_that_no_loss_reaches_warns(self):
        with pytest.warns(UserWarning, match="pushed without an end"):
            GsLora(bound=105.0)._bound(started(GsLora()).host)

    def test_before_a_step_answers_are_those_of_the_base(self):
        run_ = started(GsLora())
        weights = run_.host.weights_of([one.first for one in run_.host.feed_forward])
        pixels = run_.model.prepared(list(stripes(run_.model.labels).pixels[:4]))
        with torch.no_grad():
            before = run_.host.logits(pixels)
            with run_.adapting(weights, rank=2, alpha=2.0):
                assert torch.equal(run_.host.logits(pixels), before)


def test_the_released_order_of_classes_is_known():
    """Python's shuffle of range(100) with seed 1337, which the released tasks are cut from."""
    order = list(range(100))
    random.Random(1337).shuffle(order)
    assert order[:5] == [83, 17, 10, 9, 89]
    assert order[80:100] == [
        51, 54, 13, 88, 84, 26, 50, 39, 96, 81, 49, 42, 21, 93, 74, 73, 46, 90, 68, 79,
    ]  # fmt: skip


class TestBaselines:
    def test_dampening_against_all_chooses_nothing_beyond_the_inverse_of_the_erased_share(self):
        """Of six classes one goes: its importance is at most six times that to all."""
        model = knowing()
        wanted = asked(model)
        settings = {"selection": 6.5, "replay": 1.0}
        chosen = {
            against: run(SelectiveDampening(against=against, **settings), model, wanted)
            for against in ("all", "retained")
        }
        shrunk = {name: made.diagnostics["shrunk_weights"] for name, made in chosen.items()}
        assert shrunk["all"] == 0
        assert shrunk["retained"] > 0

    def test_random_labels_are_uniform_and_may_leave_the_true_one_out(self):
        labels = torch.full((6000,), 2)
        found = RandomLabels().drawn(labels, 6, torch.Generator().manual_seed(0))
        assert torch.bincount(found, minlength=6).float().sub(1000).abs().max() < 120
        never = RandomLabels(exclude_true=True).drawn(labels, 6, torch.Generator().manual_seed(0))
        counts = torch.bincount(never, minlength=6)
        assert counts[2] == 0
        assert counts[[0, 1, 3, 4, 5]].float().sub(1200).abs().max() < 130

    def test_scrub_takes_turns_and_ends_on_what_is_kept(self):
        turns = Scrub(epochs=3.0, max_epochs=2).turns(retained=2, erased=1)
        assert turns == ["min", "min", "max", "min", "min", "max", "min", "min"]
        assert Scrub(epochs=1.0, max_epochs=1).turns(2, 1)[-1] == "min"

    def test_scrub_is_not_apart_from_itself(self):
        (logits,) = drawn((3, 5))
        student = logits.clone().requires_grad_()
        apart = Scrub().divergence(logits, student)
        apart.backward()
        assert float(apart) == pytest.approx(0.0, abs=1e-6)
        torch.testing.assert_close(student.grad, torch.zeros(3, 5), atol=1e-6, rtol=0)

    @pytest.mark.parametrize("start", ["kept", "drawn"])
    def test_only_the_last_layers_change(self, start):
        model = knowing()
        method = LastLayers(layers=2, start=start, epochs=0.0, steps=2, batch=8)
        keys = set(run(method, model, asked(model)).delta.keys)
        assert {key.rpartition(".")[0] for key in keys} == {
            "model/classifier",
            "model/vit.layers.1.mlp.fc2",
        }

    def test_salun_leaves_the_other_weights_their_bits(self):
        model = knowing()
        method = RandomLabels(saliency=0.25, epochs=0.0, steps=3, batch=8, learning_rate=0.1)
        delta = run(method, model, asked(model)).delta
        changed = sum(int(tensor.count_nonzero()) for tensor in delta.tensors().values())
        whole = sum(weight.numel() for weight in model.model.parameters())
        assert 0 < changed <= round(0.25 * whole) + 1

    def test_conjugate_gradients_solve_what_a_solver_does(self):
        (root,) = drawn((6, 6))
        matrix, wanted = root @ root.T + 0.1 * torch.eye(6), drawn((6,), seed=3)[0]

        def product(vector):
            return list((matrix @ torch.cat(vector)).split([2, 4]))

        found = conjugate_gradients(product, wanted.split([2, 4]), iterations=60, tolerance=1e-7)
        torch.testing.assert_close(
            torch.cat(found.found), torch.linalg.solve(matrix, wanted), rtol=1e-3, atol=1e-4
        )
        assert found.residual < 1e-6

    def test_gradient_ascent_without_retaining_reads_no_retained_picture(self):
        model = knowing()
        method = registry.build("methods", "gradient_ascent", epochs=0.0, steps=1, batch=4)
        read = []
        pictures = stripes(model.labels)
        wanted = asked(model)

        class Watched(type(pictures)):
            def read(self, which):
                read.extend(self.labels[list(which)].tolist())
                return super().read(which)

        watched = Watched(pictures.names, pictures.labels, pictures.pixels)
        run(method, model, type(wanted)(erasures=wanted.erasures, retain_data=watched))
        assert set(read) == {1}


class TestBadInput:
    def test_a_class_that_the_head_lacks_is_refused_with_the_nearest(self):
        model = knowing()
        wanted = request(Concept(name="clas 1", kind="class"))
        with pytest.raises(BadRequest, match="did you mean class 1"):
            run(
                GsLora(),
                model,
                type(wanted)(erasures=wanted.erasures, retain_data=stripes(model.labels)),
            )

    def test_a_number_that_the_head_lacks_is_refused(self):
        model = knowing()
        wanted = request(Concept(name="it", kind="class", labels=(9,)))
        with pytest.raises(
            BadRequest, match="names class 9, and the model's head has classes 0 to 5"
        ):
            run(
                GsLora(),
                model,
                type(wanted)(erasures=wanted.erasures, retain_data=stripes(model.labels)),
            )

    def test_pictures_of_classes_that_the_head_lacks_are_refused(self):
        model = knowing()
        wanted = asked(model)
        other = stripes(["apple", *model.labels[1:]])
        with pytest.raises(BadRequest, match="are of apple, which the model's head of 6 classes"):
            run(GsLora(), model, type(wanted)(erasures=wanted.erasures, retain_data=other))

    def test_fewer_pictures_than_a_batch_will_do(self):
        model = knowing()
        method = GsLora(shots=2, batch=64, epochs=0.0, steps=2, rank=1)
        assert run(method, model, asked(model)).diagnostics["forget_pictures"] == 2
