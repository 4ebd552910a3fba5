r"""The loss of an energy model: a weighted sum of the errors in energy, forces, virial and atomic energies.

    L(t) = Σ_X p_X(t) L_X,      p_X(t) = limit_pref_X + (start_pref_X − limit_pref_X) · lr(t) / start_lr

| X  | error Δ                                                  | unit         | file besides force.npy     |
|----|----------------------------------------------------------|--------------|----------------------------|
| e  | (E − E*) / N                                             | eV per atom  | energy.npy                 |
| f  | F − F*, or divided by (\|F*\| + relative_f)              | eV/Å         |                            |
| v  | (Ξ − Ξ*) / N, nine components                            | eV per atom  | virial.npy                 |
| ae | E_i − E_i*                                               | eV           | atom_ener.npy              |
| pf | as f, each atom weighted                                 | eV/Å         | atom_pref.npy (the weight) |
| gf | Σ_i F_i · ∂x_i/∂q − the same of F*                       | eV/q         | drdq.npy                   |

L_X is the mean of Δ² (`mse`), of |Δ| (`mae`) or of Huber's function of Δ. The mse of e and v is multiplied by N unless
`intensive_ener_virial` is set; that is how all models up to DeePMD-kit 3.1 were trained, so it is the default.
Means of e, v and gf run over the frames; those of f, ae and pf over all real atoms of the batch, wherever they are.

A frame that `numb_copy.npy` repeats is drawn as many times as often in an epoch; its loss has no weight of its own.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

import jax
import jax.numpy as jnp
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, model_validator

from diffff.spec import Spec

Arrays = Mapping[str, jax.Array]

_TERMS = ("e", "f", "v", "ae", "pf", "gf")
_HESSIAN = (
    "the Hessian loss is not available; remove the key or set it to 0, and train on more displaced frames with forces, "
    "which hold the same information"
)


class EnergyLoss(Spec):
    """Loss `ener`; calling it gives the loss of a batch and the errors to display.

    A term whose two prefactors are 0 is left out. A term whose label is missing in a system adds nothing there and
    its error is shown as NaN.
    """

    type_aliases: ClassVar[tuple[str, ...]] = ("ener_hess",)
    refused_unless: ClassVar[Mapping[str, tuple[Any, str]]] = {
        "start_pref_h": (0, _HESSIAN),
        "limit_pref_h": (0, _HESSIAN),
    }

    type: Literal["ener"] = "ener"
    start_pref_e: NonNegativeFloat = 0.02
    "Weight of the energy at the start."
    limit_pref_e: NonNegativeFloat = 1.0
    "Weight of the energy when the learning rate has gone to 0."
    start_pref_f: NonNegativeFloat = 1000.0
    limit_pref_f: NonNegativeFloat = 1.0
    start_pref_v: NonNegativeFloat = 0.0
    limit_pref_v: NonNegativeFloat = 0.0
    start_pref_ae: NonNegativeFloat = 0.0
    limit_pref_ae: NonNegativeFloat = 0.0
    start_pref_pf: NonNegativeFloat = 0.0
    limit_pref_pf: NonNegativeFloat = 0.0
    start_pref_gf: NonNegativeFloat = 0.0
    limit_pref_gf: NonNegativeFloat = 0.0
    use_default_pf: bool = False
    "Atoms weigh 1 in the term pf where a system has no atom_pref.npy; otherwise the term is left out there."
    relative_f: PositiveFloat | None = None
    "Divides the force error of an atom by the size of its label force plus this, eV/Å; in f and pf."
    enable_atom_ener_coeff: bool = False
    "Compares Σ_i c_i E_i with the energy label, c from atom_ener_coeff.npy where a system has it."
    numb_generalized_coord: NonNegativeInt = 0
    "Number of generalised coordinates q in drdq.npy."
    use_huber: bool = False
    "½Δ² for errors up to δ, δ(|Δ| − ½δ) above; in e, f, v and ae."
    huber_delta: PositiveFloat | Annotated[tuple[PositiveFloat, ...], Field(min_length=3, max_length=3)] = 0.01
    "δ, one for all or three for e (and ae), f, v, in the units of the errors."
    loss_func: Literal["mse", "mae"] = "mse"
    f_use_norm: bool = False
    "The force error of an atom is the length of its error vector instead of three components; mae and Huber only."
    intensive_ener_virial: bool = False
    "Leaves out the factor N in the mse of e and v, so that their weights do not depend on the size of a system."

    @model_validator(mode="after")
    def _combines(self) -> Self:
        if self.use_huber and self.loss_func == "mae":
            raise ValueError('use_huber and loss_func "mae" exclude each other; remove one of them')
        if self.f_use_norm and not self.use_huber and self.loss_func == "mse":
            raise ValueError('f_use_norm needs use_huber or loss_func "mae"; the mse is the same for both')
        if self.use_huber and (self.relative_f is not None or {"pf", "gf"} & set(self.terms)):
            raise ValueError("use_huber does not go with relative_f, pf or gf; remove one or the other")
        if "gf" in self.terms and self.numb_generalized_coord == 0:
            raise ValueError("the prefactors gf need numb_generalized_coord, the number of coordinates in drdq.npy")
        return self

    @property
    def terms(self) -> tuple[str, ...]:
        """The terms with a prefactor that is not 0."""
        return tuple(x for x in _TERMS if getattr(self, f"start_pref_{x}") or getattr(self, f"limit_pref_{x}"))

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the displayed errors, in the order of lcurve.out: rmse (√L), then one for each term."""
        return ("rmse", *(self._metric(term) for term in self.terms))

    def labels(self, term: str) -> tuple[str, ...]:
        """The labels without which a term is left out."""
        return {
            "e": ("energy",),
            "f": ("force",),
            "v": ("virial",),
            "ae": ("atom_ener",),
            "pf": ("force",) if self.use_default_pf else ("force", "atom_pref"),
            "gf": ("force", "drdq"),
        }[term]

    def needs(self, labels: Collection[str]) -> frozenset[str]:
        """The predictions to compute for a system that has these labels: energy, force, virial, atom_ener."""
        needed = {"e": "energy", "f": "force", "v": "virial", "ae": "atom_ener", "pf": "force", "gf": "force"}
        if self.enable_atom_ener_coeff and "atom_ener_coeff" in labels:
            needed["e"] = "atom_ener"
        return frozenset(needed[term] for term in self.terms if set(self.labels(term)) <= set(labels))

    def __call__(
        self,
        prediction: Arrays,
        labels: Arrays,
        real: jax.Array | None,
        n_real: jax.Array,
        lr_ratio: jax.typing.ArrayLike,
        n_atoms: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The loss of a batch and its displayed errors.

        Args:
            prediction: What `needs` asks for: "energy" (n_frames,) eV, "force" (n_frames, n_atoms, 3) eV/Å, "virial"
                (n_frames, 3, 3) eV, "atom_ener" (n_frames, n_atoms) eV. Energies in float64: they are large numbers,
                the difference is what counts.
            labels: Labels present in this system, of the same names, shapes and units; also "atom_pref" and
                "atom_ener_coeff" (n_frames, n_atoms), "drdq" (n_frames, n_atoms, 3 * numb_generalized_coord).
            real: (n_frames, n_atoms) False for the empty slots of mixed systems; None: all atoms are real.
            n_real: (n_frames,) number of real atoms N.
            lr_ratio: lr(t) / start_lr.
            n_atoms: what sums over real atoms are divided by, where the batch is one of several of as many frames whose
                mean is wanted: the mean number of real atoms of these; None: those of the batch itself.

        Returns:
            The loss, and an error for each name in `metrics`.
        """
        errors = _Errors(prediction=prediction, labels=labels, real=real, n_real=n_real, n_atoms=n_atoms)
        loss, metrics = jnp.zeros(()), {}
        for term in self.terms:
            if set(self.labels(term)) <= set(labels):
                value, mean_square = self._term(term, errors)
                loss += self.prefactor(term, lr_ratio) * value
                metrics[self._metric(term)] = value if self._is_mae(term) else jnp.sqrt(mean_square)
            else:
                metrics[self._metric(term)] = jnp.asarray(jnp.nan)
        return loss, {"rmse": jnp.sqrt(loss), **metrics}

    def prefactor(self, term: str, lr_ratio: jax.typing.ArrayLike) -> jax.Array:
        """The weight p of a term when the learning rate is `lr_ratio` times the start's."""
        start, limit = getattr(self, f"start_pref_{term}"), getattr(self, f"limit_pref_{term}")
        return limit + (start - limit) * jnp.asarray(lr_ratio)

    def _term(self, term: str, errors: "_Errors") -> tuple[jax.Array, jax.Array]:
        """L_X without its prefactor, and the mean of Δ²."""
        deltas = self.huber_delta if isinstance(self.huber_delta, tuple) else (self.huber_delta,) * 3
        match term:
            case "e":
                return self._of_frames(errors.energy(self.enable_atom_ener_coeff), errors, deltas[0])
            case "f":
                return self._of_atoms(errors.force(self.relative_f), errors, deltas[1], norm=self.f_use_norm)
            case "v":
                return self._of_frames(errors.virial(), errors, deltas[2])
            case "ae":
                return self._of_atoms(errors.atom_ener(), errors, deltas[0])
            case "pf":
                return self._of_atoms(errors.force(self.relative_f), errors, deltas[1], weight=errors.atom_pref())
            case _:
                mean_square = jnp.mean(errors.generalized_force(self.numb_generalized_coord) ** 2)
                return mean_square, mean_square

    def _of_frames(self, error: jax.Array, errors: "_Errors", delta: float) -> tuple[jax.Array, jax.Array]:
        """Mean over frames and components; error (n_frames, n_components) per atom."""
        penalty = self._penalty(error, delta)
        if self.loss_func == "mse" and not self.use_huber and not self.intensive_ener_virial:
            penalty *= errors.n_real[:, None]
        return jnp.mean(penalty), jnp.mean(error**2)

    def _of_atoms(
        self, error: jax.Array, errors: "_Errors", delta: float, norm: bool = False, weight: jax.Array | float = 1.0
    ) -> tuple[jax.Array, jax.Array]:
        """Weighted mean over real atoms and components; error (n_frames, n_atoms, n_components)."""
        size = _safe_norm(error) if norm else error
        return errors.atom_mean(weight * self._penalty(size, delta)), errors.atom_mean(weight * error**2)

    def _penalty(self, error: jax.Array, delta: float) -> jax.Array:
        if self.use_huber:
            size = jnp.abs(error)
            return jnp.where(size <= delta, 0.5 * error**2, delta * (size - 0.5 * delta))
        return jnp.abs(error) if self.loss_func == "mae" else error**2

    def _is_mae(self, term: str) -> bool:
        return self.loss_func == "mae" and term != "gf"  # generalised forces are compared by squares always

    def _metric(self, term: str) -> str:
        return f"{'mae' if self._is_mae(term) else 'rmse'}_{term}"


@dataclass(frozen=True)
class _Errors:
    """The errors Δ of a batch, 0 in empty slots, so that nothing which happens there reaches loss or gradient."""

    prediction: Arrays
    labels: Arrays
    real: jax.Array | None
    n_real: jax.Array
    n_atoms: jax.Array | None

    def energy(self, with_coefficients: bool) -> jax.Array:
        """(n_frames, 1) eV per atom."""
        if with_coefficients and "atom_ener_coeff" in self.labels:
            energy = jnp.sum(self._real(self.labels["atom_ener_coeff"] * self.prediction["atom_ener"]), axis=1)
        else:
            energy = self.prediction["energy"]
        return ((energy - self.labels["energy"]) / self.n_real)[:, None]

    def virial(self) -> jax.Array:
        """(n_frames, 9) eV per atom."""
        error = self.prediction["virial"] - self.labels["virial"]
        return error.reshape(-1, 9) / self.n_real[:, None]

    def force(self, relative: float | None) -> jax.Array:
        """(n_frames, n_atoms, 3) eV/Å."""
        error = self._real(self.prediction["force"] - self.labels["force"])
        return error if relative is None else error / (_safe_norm(self.labels["force"]) + relative)

    def atom_ener(self) -> jax.Array:
        """(n_frames, n_atoms, 1) eV."""
        return self._real(self.prediction["atom_ener"] - self.labels["atom_ener"])[..., None]

    def atom_pref(self) -> jax.Array | float:
        """(n_frames, n_atoms, 1) weights of the atoms."""
        return self.labels["atom_pref"][..., None] if "atom_pref" in self.labels else 1.0

    def generalized_force(self, n_coordinates: int) -> jax.Array:
        """(n_frames, n_coordinates), eV per unit of the coordinate."""
        force = self.force(relative=None)
        drdq = self.labels["drdq"].reshape(*force.shape, n_coordinates)
        return jnp.einsum("bic,bicq->bq", force, drdq)

    def atom_mean(self, values: jax.Array) -> jax.Array:
        """Mean of (n_frames, n_atoms, n_components) over the real atoms and the components."""
        if self.real is None:
            return jnp.mean(values)
        n_atoms = jnp.sum(self.real) if self.n_atoms is None else self.n_atoms
        return jnp.sum(values) / (n_atoms * values.shape[-1])

    def _real(self, values: jax.Array) -> jax.Array:
        if self.real is None:
            return values
        return jnp.where(self.real.reshape(self.real.shape + (1,) * (values.ndim - 2)), values, 0.0)


def _safe_norm(vectors: jax.Array) -> jax.Array:
    """(…, 3) -> (…, 1) lengths, with gradient 0 where the length is 0."""
    square = jnp.sum(vectors**2, axis=-1, keepdims=True)
    some = square > 0.0
    return jnp.where(some, jnp.sqrt(jnp.where(some, square, 1.0)), 0.0)
