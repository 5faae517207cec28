//! The fused loss against softmaxes of all logits, against finite differences, and at its limits.

use super::super::cross_entropy::{IGNORED, linear_cross_entropy};
use super::super::gradient::set_gradient_buffer;
use super::super::test_support::{all_nan, as_leaf, assert_close, compare, on_every_backend, sample};
use super::*;
use tch::{Device, Kind, Reduction};

/// By plain operators on all logits, which are rounded as `held` holds them: the objective, and both losses by row.
fn reference_of(held: Kind, x: &[Tensor], targets: &Tensor, blend: Blend, scale: f64) -> LinearDistillation {
    let logits = |hidden: &Tensor, head: &Tensor| {
        let exact = hidden.linear(head, None::<&Tensor>);
        &exact + (exact.to_kind(held).to_kind(exact.kind()) - &exact).detach()
    };
    let [student, teacher] = [logits(&x[0], &x[1]), logits(&x[2], &x[3]).detach()];
    let token_losses = student.cross_entropy_loss(targets, None::<&Tensor>, Reduction::None, IGNORED, 0.0);
    let [own, its] = [&student, &teacher].map(|z| (z / blend.temperature).log_softmax(-1, z.kind()));
    let valid = targets.not_equal(IGNORED).to_kind(student.kind());
    let token_divergences =
        (its.exp() * (&its - own)).sum_dim_intlist([1i64].as_slice(), false, student.kind()) * valid;
    let both = &token_losses * (1.0 - blend.share) + &token_divergences * (blend.share * blend.temperature.powi(2));
    LinearDistillation { objective: both.sum(student.kind()) * scale, token_losses, token_divergences }
}

fn reference(x: &[Tensor], targets: &Tensor, blend: Blend, scale: f64) -> LinearDistillation {
    reference_of(x[0].kind(), x, targets, blend, scale)
}

fn fused(x: &[Tensor], targets: &Tensor, blend: Blend, scale: f64, chunk_rows: i64) -> LinearDistillation {
    let teacher = TeacherHead { hidden: &x[2], weight: &x[3] };
    linear_distillation(&x[0], &x[1], targets, teacher, blend, scale, chunk_rows).unwrap()
}

/// Targets all over `0..vocabulary`, every fifth ignored if there are five.
fn targets(rows: i64, vocabulary: i64) -> Tensor {
    let target = |n: i64| if n % 5 == 4 { IGNORED } else { (n * 7 + 3) % vocabulary };
    Tensor::from_slice(&(0..rows).map(target).collect::<Vec<_>>())
}

/// Student of width D and teacher of another: hidden and head of each.
fn inputs([rows, width, vocabulary]: [i64; 3], kind: Kind) -> [Tensor; 4] {
    let wider = width + 3;
    let shapes = [[rows, width], [vocabulary, width], [rows, wider], [vocabulary, wider]];
    let mut seed = 0;
    shapes.map(|shape| {
        seed += 1;
        (sample(&shape, seed) * if seed % 2 == 0 { 0.25 } else { 1.0 }).to_kind(kind)
    })
}

const BLENDS: [Blend; 4] = [
    Blend { share: 0.3, temperature: 1.0 },
    Blend { share: 1.0, temperature: 1.0 },
    Blend { share: 0.3, temperature: 2.5 },
    Blend { share: 1.0, temperature: 0.5 },
];

/// fp32 and fp64 to 1e-5 and better. bf16, whose logits are rounded to 8 bits in both models: of these logits it is the
/// same to the rounding of gradients to as many.
#[test]
fn it_is_the_full_divergence_with_its_gradients() {
    on_every_backend(it_is_the_full_divergence_with_its_gradients_here);
}

fn it_is_the_full_divergence_with_its_gradients_here() {
    for (kind, tolerance) in [(Kind::Float, 1e-5), (Kind::BFloat16, 2e-2), (Kind::Double, 1e-12)] {
        for (sizes, chunk_rows) in [([1, 5, 3], 1), ([3, 33, 17], 2), ([7, 16, 101], 100), ([20, 24, 64], 8)] {
            let x = inputs(sizes, kind);
            let targets = targets(sizes[0], sizes[2]);
            for blend in BLENDS {
                let all = |t: &[Tensor], kind| {
                    [t[0].shallow_clone(), t[1].shallow_clone(), x[2].to_kind(kind), x[3].to_kind(kind)]
                };
                let one = |result: LinearDistillation, kind| vec![result.objective.to_kind(kind)];
                compare(
                    &x[..2],
                    tolerance,
                    |t| one(fused(&all(t, kind), &targets, blend, 0.3, chunk_rows), kind),
                    |t| one(reference_of(kind, &all(t, Kind::Double), &targets, blend, 0.3), Kind::Double),
                );
                let found = fused(&x, &targets, blend, 0.3, chunk_rows);
                let wide = x.each_ref().map(|x| x.to_kind(Kind::Double));
                let expected = reference_of(kind, &wide, &targets, blend, 0.3);
                assert_close("losses", &found.token_losses, &expected.token_losses, tolerance);
                assert_close("divergences", &found.token_divergences, &expected.token_divergences, tolerance);
            }
        }
    }
}

/// A vocabulary as of real models, logits as far apart as theirs: the sums of fp32 still hold 1e-5.
#[test]
fn a_large_vocabulary_does_not_cost_digits() {
    on_every_backend(a_large_vocabulary_does_not_cost_digits_here);
}

fn a_large_vocabulary_does_not_cost_digits_here() {
    let sizes = [3, 16, 50_257];
    let x = inputs(sizes, Kind::Float).map(|x| x * 1.5);
    let targets = targets(3, sizes[2]);
    for blend in BLENDS {
        let found = fused(&x, &targets, blend, 1.0, 2);
        let expected = reference(&x.each_ref().map(|x| x.to_kind(Kind::Double)), &targets, blend, 1.0);
        assert_close("losses", &found.token_losses, &expected.token_losses, 1e-5);
        assert_close("divergences", &found.token_divergences, &expected.token_divergences, 1e-5);
    }
}

#[test]
fn the_gradient_is_the_slope_of_the_objective() {
    on_every_backend(the_gradient_is_the_slope_of_the_objective_here);
}

fn the_gradient_is_the_slope_of_the_objective_here() {
    let x = inputs([4, 5, 7], Kind::Double);
    let targets = targets(4, 7);
    for blend in BLENDS {
        let [hidden, weight] = [as_leaf(&x[0]), as_leaf(&x[1])];
        let teacher = || [x[2].shallow_clone(), x[3].shallow_clone()];
        let objective = |hidden: &Tensor, weight: &Tensor| {
            let [its_hidden, its_weight] = teacher();
            let all = [hidden.shallow_clone(), weight.shallow_clone(), its_hidden, its_weight];
            fused(&all, &targets, blend, 0.7, 3).objective
        };
        objective(&hidden, &weight).backward();
        for (at, gradient) in [hidden.grad(), weight.grad()].into_iter().enumerate() {
            let slope = |index: i64| {
                let moved = |by: f64| {
                    let both = [x[0].copy(), x[1].copy()];
                    let _ = both[at].view([-1]).get(index).g_add_scalar_(by);
                    objective(&both[0], &both[1]).double_value(&[])
                };
                (moved(1e-5) - moved(-1e-5)) / 2e-5
            };
            let slopes: Vec<f64> = (0..gradient.numel() as i64).map(slope).collect();
            assert_close("gradient", &gradient.view([-1]), &Tensor::from_slice(&slopes), 1e-8);
        }
    }
}

#[test]
fn a_student_that_is_its_teacher_has_nothing_to_learn() {
    on_every_backend(a_student_that_is_its_teacher_has_nothing_to_learn_here);
}

fn a_student_that_is_its_teacher_has_nothing_to_learn_here() {
    for kind in [Kind::Float, Kind::BFloat16, Kind::Double] {
        let [hidden, weight] = [sample(&[6, 12], 1), sample(&[33, 12], 2)].map(|x| as_leaf(&x.to_kind(kind)));
        for temperature in [1.0, 3.0] {
            let teacher = TeacherHead { hidden: &hidden.detach(), weight: &weight.detach() };
            let blend = Blend { share: 1.0, temperature };
            let found = linear_distillation(&hidden, &weight, &targets(6, 33), teacher, blend, 1.0, 4).unwrap();
            found.objective.backward();
            for (name, zero) in [("KL", found.token_divergences), ("dh", hidden.grad()), ("dW", weight.grad())] {
                let largest = zero.abs().max().double_value(&[]);
                assert!(largest < 1e-6, "{name} of {kind:?} at {temperature}: {largest}");
            }
        }
    }
}

/// Without a share it is cross entropy, to the bit.
#[test]
fn a_share_of_nothing_leaves_cross_entropy() {
    on_every_backend(a_share_of_nothing_leaves_cross_entropy_here);
}

fn a_share_of_nothing_leaves_cross_entropy_here() {
    let x = inputs([9, 16, 40], Kind::Float);
    let targets = targets(9, 40);
    let run = |hidden: &Tensor, weight: &Tensor| {
        let all = [hidden.shallow_clone(), weight.shallow_clone(), x[2].shallow_clone(), x[3].shallow_clone()];
        fused(&all, &targets, Blend { share: 0.0, temperature: 1.0 }, 0.3, 4)
    };
    let [h, w, plain_h, plain_w] = [&x[0], &x[1], &x[0], &x[1]].map(as_leaf);
    let (found, plain) = (run(&h, &w), linear_cross_entropy(&plain_h, &plain_w, &targets, 0.3, 4).unwrap());
    assert_eq!(found.token_losses, plain.token_losses);
    found.objective.backward();
    plain.objective.backward();
    assert_close("dhidden", &h.grad(), &plain_h.grad(), 1e-6);
    assert_close("dweight", &w.grad(), &plain_w.grad(), 1e-6);
}

/// A bf16 student in training: its head's gradient is summed in an fp32 buffer; a teacher in fp32 beside it.
#[test]
fn dtypes_of_teacher_and_student_are_their_own_and_gradients_add_up_in_fp32() {
    on_every_backend(dtypes_of_teacher_and_student_are_their_own_and_gradients_add_up_in_fp32_here);
}

fn dtypes_of_teacher_and_student_are_their_own_and_gradients_add_up_in_fp32_here() {
    let x = inputs([8, 16, 40], Kind::Float);
    let targets = targets(8, 40);
    let blend = Blend { share: 0.6, temperature: 2.0 };
    let exact = [as_leaf(&x[0]), as_leaf(&x[1]), x[2].copy(), x[3].copy()];
    for scale in [2.0, 0.5] {
        reference(&exact, &targets, blend, scale).objective.backward();
    }
    for (own, its) in [(Kind::BFloat16, Kind::Float), (Kind::BFloat16, Kind::BFloat16), (Kind::Float, Kind::BFloat16)] {
        let [hidden, weight] = [as_leaf(&x[0].to_kind(own)), as_leaf(&x[1].to_kind(own))];
        let buffer = Tensor::zeros(weight.size(), (Kind::Float, Device::Cpu));
        set_gradient_buffer(&weight, &buffer).unwrap();
        let [its_hidden, its_weight] = [x[2].to_kind(its), x[3].to_kind(its)];
        let all = [hidden.shallow_clone(), weight.shallow_clone(), its_hidden, its_weight];
        for scale in [2.0, 0.5] {
            fused(&all, &targets, blend, scale, 3).objective.backward();
        }
        assert_close("dhidden", &hidden.grad(), &exact[0].grad(), 4e-2);
        assert_close("dweight", &buffer, &exact[1].grad(), 4e-2);
        assert_eq!(weight.grad().data_ptr(), buffer.data_ptr());
    }
}

#[test]
fn chunks_do_not_show_and_only_what_is_trained_gets_a_gradient() {
    let x = inputs([20, 24, 65], Kind::Float);
    let targets = targets(20, 65);
    let blend = BLENDS[2];
    let whole = fused(&x, &targets, blend, 1.0, 20);
    assert!(!whole.objective.requires_grad());
    for chunk_rows in [1, 7, 19] {
        let found = fused(&x, &targets, blend, 1.0, chunk_rows);
        assert_close("losses", &found.token_losses, &whole.token_losses, 1e-6);
        assert_close("divergences", &found.token_divergences, &whole.token_divergences, 1e-6);
    }
    let trained = [as_leaf(&x[0]), x[1].copy(), as_leaf(&x[2]), as_leaf(&x[3])];
    fused(&trained, &targets, blend, 1.0, 7).objective.backward();
    assert_eq!(trained.each_ref().map(|x| x.grad().defined()), [true, false, false, false]);
    let free = tch::no_grad(|| fused(&trained, &targets, blend, 1.0, 7));
    assert!(!free.objective.requires_grad());
}

#[test]
fn ignored_rows_have_no_loss_and_a_broken_teacher_shows() {
    on_every_backend(ignored_rows_have_no_loss_and_a_broken_teacher_shows_here);
}

fn ignored_rows_have_no_loss_and_a_broken_teacher_shows_here() {
    let x = inputs([3, 4, 9], Kind::Float);
    let none = Tensor::full([3], IGNORED, (Kind::Int64, Device::Cpu));
    let [hidden, weight] = [as_leaf(&x[0]), as_leaf(&x[1])];
    let all = [hidden.shallow_clone(), weight, x[2].copy(), x[3].copy()];
    let result = fused(&all, &none, BLENDS[0], 1.0, 2);
    assert_eq!(result.objective.double_value(&[]), 0.0);
    result.objective.backward();
    assert_eq!(hidden.grad().abs().sum(Kind::Float).double_value(&[]), 0.0);
    let _ = all[2].get(1).fill_(f64::NAN);
    let result = fused(&all, &targets(3, 9), BLENDS[0], 1.0, 2);
    assert!(all_nan(&result.token_divergences.get(1)) && all_nan(&result.objective));
    assert!(!all_nan(&result.token_divergences.get(0)));
}

#[test]
fn what_does_not_fit_is_an_error() {
    let x = inputs([2, 4, 5], Kind::Float);
    let targets = targets(2, 5);
    let problem = |its_hidden: &Tensor, its_weight: &Tensor, blend| {
        let teacher = TeacherHead { hidden: its_hidden, weight: its_weight };
        linear_distillation(&x[0], &x[1], &targets, teacher, blend, 1.0, 2).unwrap_err().to_string()
    };
    let vocabulary = problem(&x[2], &sample(&[6, 7], 1), BLENDS[0]);
    assert!(vocabulary.contains("vocabulary of 6") && vocabulary.contains("one of 5"), "{vocabulary}");
    assert!(problem(&sample(&[3, 7], 1), &x[3], BLENDS[0]).contains("the teacher's hidden of [3, 7]"));
    assert!(problem(&x[2].to_kind(Kind::BFloat16), &x[3], BLENDS[0]).contains("BFloat16"));
    assert!(problem(&x[2], &x[3], Blend { share: 1.1, temperature: 1.0 }).contains("share of 1.1"));
    assert!(problem(&x[2], &x[3], Blend { share: 1.0, temperature: 0.0 }).contains("temperature of 0"));
}
