"""The expression language against OpenMM's own parser, through a CustomExternalForce on the Reference platform."""

import jax
import jax.numpy as jnp
import numpy as np
import openmm as mm
import pytest

from diffff.errors import InputError
from diffff.potentials.expression import MAX_DEPTH, parse

RNG = np.random.default_rng(11)
POINTS = np.c_[RNG.uniform(0.05, 0.95, size=(6, 2)), RNG.uniform(-2.0, 2.0, size=6)]  # x, y in (0, 1); z of either sign

ARITHMETIC = """
x|2|-x|x+y|x-y|x*y|x/y|x^y|x+y+z|x-y-z|x-(y-z)|x-y+z|x/y/2|x/(y/2)|x/y*z|x*y/z|x+y*z|(x+y)*z|x*y+z|x-y*z-x
2^3^2|x^y^2|(x^y)^2|-2^2|(-2)^2|2^-1|-x^2|-z^2|(-z)^2|x^-2|x^-y|2^-3^2|-x*y|x*-y|x- -y|x--y|--x|-(-x)|---x|x*-y*z|x/-y
-x/-y|2*-x^2|x+-y|-x+y|-x-y|x^-y*z|-x^-2|-2^-2|x^2*3|3*x^2^y|-x^y^z^2|2^x^-y
3|3.|.5|0.5|1e3*x|1E3*x|1.5e-3*x|2e+2*x|.5e1*x|007*x|1e-320*x|123456789.123456789*x
((((x))))|(x)|( x + y )* z|x   +  y
"""
POWERS = """
x^0|x^1|x^2|x^3|x^4|x^5|x^6|x^7|x^9|x^12|x^13|x^24|x^100|z^3|z^7|z^-3|z^-1|x^-1|x^-6|x^-12|x^0.5|x^-0.5|x^1.5|x^(1/3)|x^(1/6)|x^2.25
x^(6*2)|x^(y*2)|2^x|10^z|1^x|0^x|x^3.0|z^(1+1)|square(z)^3|(x*y)^6-(x*y)^3|(0.3/x)^12-(0.3/x)^6|x*x*x|z*z*z*z
4*y*((0.3/x)^12-(0.3/x)^6)|cube(z)-z^3+x|(x+y)^4/(x+y)^2
"""
FUNCTIONS = """
sqrt(x)|exp(z)|exp(-z^2)|log(x)|sin(z)|cos(z)|sec(x)|csc(z)|tan(x)|cot(z)|asin(x)|acos(x)|asin(-x)|acos(-x)|atan(z)|atan2(x,y)|atan2(z,x)
atan2(x,z)|atan2(-x,z)|sinh(z)|cosh(z)|tanh(z)|erf(z)|erfc(z)|erfc(4+x)|erf(x*0.01)|step(z)|step(-z)|delta(z)|square(z)|cube(z)|recip(z)
min(x,y)|max(x,y)|min(x,z)*y|max(z,y)*x|abs(z)|abs(-z)|floor(3*z)|ceil(3*z)|floor(3*z)*x+ceil(3*z)*y|select(step(z),x,y)|select(z,x,y)
select(0,x,y)|select(1,x,y)|select(x-x,x,y)|select(step(x-y),x^2,y*z)|min(max(x,y),abs(z))|sqrt(sqrt(x))|log(exp(z))|sin(cos(tan(x)))
exp(-1/x)|sqrt(x*y)|sqrt(square(x)+square(y)+square(z))|tanh(x)/cosh(x)|sinh(x)+cosh(x)|log(x/y)|exp(x)^2|exp(x)^-y|erf(x)+erfc(x)
select(step(z),sqrt(abs(z)),log(x)*exp(y))|select(step(x-0.5),select(step(y-0.5),x,y^2),select(z,x*y,0))
step(x-0.5)*(x-0.5)^2+step(0.5-x)*exp(x)|delta(floor(x))*y
"""
DEFINITIONS = """
a*b; a=x+1; b=y|a; a=b^2; b=c+x; c=y*z|a+a*a; a=sin(x)|x2+x_1+x1y2; x2=x; x_1=y; x1y2=z|_a*2; _a=x|a ; a = x ;|a;;a=x;
x+y; x=z|a; a=1*x; a=2*x|a; a=a0+b; b=2; a0=a1; a1=x|sin+cos; sin=x; cos=y|x; x=x+1|r0^2; r0=x; unused=y
x*sin+sin(x); sin=y
4*epsilon*((sigma/r)^12-(sigma/r)^6); sigma=0.5*(s1+s2); epsilon=sqrt(e1*e2); r=x+0.3; s1=y; s2=0.4; e1=0.1; e2=x
0.5*k*min(dtheta,2*pi-dtheta)^2; dtheta=abs(z-0.3); pi=3.1415926535; k=x|exp(-u);u=v*v;v=(z-x)/y
138.935456*q*(1/r+krf*r^2-crf);krf=0.3;crf=1.2;r=x;q=y*z
"""


def listed(block):
    return [text for line in block.strip("\n").split("\n") for text in line.split("|")]


EXPRESSIONS = [text for block in (ARITHMETIC, POWERS, FUNCTIONS, DEFINITIONS) for text in listed(block)]
EXPRESSIONS.append("u;u=w\t+\tx;\n  w=y\n;")
SPECIAL = """
step(x)|delta(x)|delta(z)|select(x,1,2)|select(x,1/x,5*y)|x/x|x-x|0*log(x)|0/x|0^x|x^0|x^2|x^3|min(x,y)|max(x,y)|max(2*x,y)|min(2*x,y)|abs(x)
floor(x)|ceil(x)|erf(x)|erfc(x)|exp(x)|cos(x)|tanh(x)|asin(x)|acos(x)|sinh(x)|cosh(x)|atan(x)|select(x,sqrt(x)/x,3*x+y)|x*y|x^y|1/(1+x)
select(delta(x),3*y,exp(1/x^2))|step(-x)|step(x-1)+x|sec(x)|2^x
"""


def in_openmm(text, points):
    """Values ``(m,)`` and derivatives ``(m, 3)``."""
    force = mm.CustomExternalForce(text)
    force.addParticle(0, [])
    system = mm.System()
    system.addParticle(1.0)
    system.addForce(force)
    context = mm.Context(system, mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName("Reference"))
    values, slopes = [], []
    for point in points:
        context.setPositions([point])
        state = context.getState(energy=True, forces=True)
        values.append(state.getPotentialEnergy()._value)
        slopes.append(-state.getForces(asNumpy=True)._value[0])
    return np.array(values), np.array(slopes)


def ours(texts, points):
    """Values and derivatives of all texts in one compilation."""
    expressions = [parse(text) for text in texts]

    def value(expression, points):
        x, y, z = points.T
        return jnp.broadcast_to(expression({"x": x, "y": y, "z": z}), x.shape)

    @jax.jit
    def all_of_them(points):
        pairs = [jax.vjp(lambda p, e=e: value(e, p), points) for e in expressions]
        return [(v, pullback(jnp.ones_like(v))[0]) for v, pullback in pairs]

    return all_of_them(jnp.asarray(points))


def test_the_list_is_long():
    assert len(EXPRESSIONS) > 190 and len(set(EXPRESSIONS)) == len(EXPRESSIONS)


@pytest.mark.parametrize("part", range(4))
def test_values_and_derivatives_are_those_of_openmm(part):
    texts = EXPRESSIONS[part::4]
    for text, (value, slope) in zip(texts, ours(texts, POINTS), strict=True):
        expected, expected_slope = in_openmm(text, POINTS)
        np.testing.assert_allclose(value, expected, rtol=1e-13, atol=1e-15, err_msg=text)
        np.testing.assert_allclose(slope, expected_slope, rtol=1e-12, atol=1e-13, err_msg=text)


def test_edges_at_zero_are_those_of_openmm():
    points, texts = np.zeros((1, 3)), listed(SPECIAL)
    for text, (value, slope) in zip(texts, ours(texts, points), strict=True):
        expected, expected_slope = in_openmm(text, points)
        np.testing.assert_allclose(value, expected, rtol=1e-15, err_msg=text)
        if np.isfinite(expected_slope).all():
            np.testing.assert_allclose(slope, expected_slope, rtol=1e-15, err_msg=text)


@pytest.mark.parametrize(
    "text",
    listed("+x|2x|sin (x)|x**2|pow(x,2)|siin(x)|x y|(x|x)||x+|*x|x; y|x; =y|min(x)|sin()|sin(x,y)|1.2.3|x,y|x^|x; y=")
    + listed("()|x 2|2 3|x*/y|x; y=2 3|log10(x)|atan2(x)|-"),
)
def test_what_openmm_refuses_is_refused(text):
    with pytest.raises(InputError):
        parse(text, variables="xyz")
    with pytest.raises(mm.OpenMMException):
        in_openmm(text, POINTS[:1])


@pytest.mark.parametrize(
    ("text", "position", "why"),
    [
        ("pow(x,2)", 1, "unknown function 'pow'; write a^b"),
        ("x+siin(x)", 3, "unknown function 'siin'; did you mean 'sin'?"),
        ("qqq(x)", 1, "unknown function 'qqq'; known are abs, acos"),
        ("2x", 2, "expected an operator or the end, found 'x'"),
        ("sin (x)", 5, "expected no space between 'sin' and its parenthesis"),
        ("x**2", 3, "expected a value; a power is written a^b"),
        ("x*(y+(z-x)", 11, "expected ')' for the '(' at 3, found the end"),
        ("x)", 2, "there is no '(' for this ')'"),
        ("x & y", 3, "'&' has no meaning in an expression"),
        ("x+", 3, "expected a number, a name, '-' or '(', found the end"),
        ("x; y", 4, "expected a definition, name=expression, after the semicolon"),
        ("x; 2y=3", 4, "expected a name before '=', found '2y'"),
        ("min(x)", 1, "'min' takes 2 argument(s), found 1"),
        ("x; y=1; z=(", 12, "expected a number, a name, '-' or '(', found the end"),
        ("a; a=b; b=a", 11, "the name 'a' has no value here; it is defined further left, or by itself"),
        ("a; a=a+x", 6, "the name 'a' has no value here; it is defined further left, or by itself"),
        ("k*x + sigm", 7, "the name 'sigm' has no value here; did you mean 'sigma'?"),
        ("k*x + w", 7, "the name 'w' has no value here; known are k, sigma, x, y, z"),
        ("-" * 500 + "x", MAX_DEPTH + 2, "nested more than 120 deep"),
        ("(" * 100_000, MAX_DEPTH + 2, "nested more than 120 deep"),
        ("^".join(["x"] * 1000), 2 * MAX_DEPTH + 3, "nested more than 120 deep"),
        ("x; y=" + "sin(" * 200 + "x" + ")" * 200, 6 + 4 * (MAX_DEPTH + 1), "nested more than 120 deep"),
    ],
)
def test_messages_point_at_the_place(text, position, why):
    with pytest.raises(InputError) as caught:
        parse(text, variables=("x", "y", "z", "k", "sigma"))
    message, line, caret = str(caught.value).split("\n")
    assert f"at position {position}: {why}" in message
    shown = line[caret.index("^") :][:1]
    assert shown == (text[position - 1 : position] if position <= len(text) else "")


def test_long_sums_and_wide_texts_are_no_problem():
    n = 20_000
    expression = parse("+".join(f"x*{k}.5" for k in range(n)))
    np.testing.assert_allclose(expression({"x": np.float64(2.0)}), 2.0 * sum(k + 0.5 for k in range(n)), rtol=1e-12)
    deep = "(" * MAX_DEPTH + "x" + ")" * MAX_DEPTH
    assert parse(deep)({"x": 3.0}) == 3.0


def test_names_and_missing_values():
    expression = parse("a*sigma1+sigma2+f(b); a=c; unused=d", functions={"f": 1})
    assert expression.names == ("b", "c", "sigma1", "sigma2")
    assert parse("2*x-2*x").names == ()  # as OpenMM, which drops what cancels
    values = {"b": 1.0, "c": 2.0, "sigma1": 3.0, "sigma2": 4.0}
    assert expression(values, {"f": lambda b: 10 * b}) == 20.0
    with pytest.raises(InputError, match="no value is given for 'c', only for b, sigma1, sigma2"):
        expression({k: v for k, v in values.items() if k != "c"}, {"f": jnp.sin})
    with pytest.raises(InputError, match="no function is given for 'f', only for nothing"):
        expression(values)


def test_the_users_functions_go_first_and_their_arguments_are_counted():
    mine = parse("sin(x, y) + 1", functions={"sin": 2})
    assert mine({"x": 2.0, "y": 3.0}, {"sin": lambda x, y: x * y}) == 7.0
    with pytest.raises(InputError, match=r"'sin' takes 2 argument\(s\), found 1"):
        parse("sin(x)", functions={"sin": 2})
    with pytest.raises(InputError, match="did you mean 'table'"):
        parse("tabel(x)", functions={"table": 1})


def test_nothing_is_computed_twice():
    nodes = parse("sqrt(x+y)*z + 1/sqrt(y+x)").nodes
    assert [node.op for node in nodes].count("sqrt") == 1
    nodes = parse("4*e*((s/r)^12-(s/r)^6)").nodes
    assert len(nodes) == 12  # 4 numbers and names, 4*e, s/r, 4 products up to the power 12, their difference, all
    assert [node.op for node in nodes].count("/") == 1


def test_equal_texts_are_equal_and_hashable():
    assert parse("x+y") == parse("x+y") and hash(parse("x+y")) == hash(parse("x+y"))
    assert parse("x+y") != parse("y+x")
    assert parse("f(x)", {"f": 1}) != parse("sin(x)")


@pytest.mark.parametrize(
    ("text", "at_zero"),
    [
        ("select(x, sqrt(x)/x, 3*x)", 3.0),
        ("select(delta(x), 2*x, log(x))", 2.0),
        ("select(x, 1/x, select(x-1, x*4, x^-2))", 4.0),
        ("select(step(x-1), exp(1/x^3), x+square(x))", 1.0),
        ("select(step(x-1), a, 5*x); a=b/x; b=sqrt(x)", 5.0),
    ],
)
def test_the_branch_not_taken_cannot_spoil_derivatives(text, at_zero):
    def energy(x):
        return parse(text)({"x": x})

    assert jax.grad(energy)(0.0) == at_zero
    assert jax.jacfwd(energy)(0.0) == at_zero
    for second in (jax.jacfwd(jax.grad(energy)), jax.grad(jax.grad(energy))):
        assert np.isfinite(second(0.0))
    x, h = 2.0, 1e-6  # the branch that is taken keeps its derivative
    np.testing.assert_allclose(jax.grad(energy)(x), (energy(x + h) - energy(x - h)) / (2 * h), rtol=1e-8)


def test_many_nested_selects_do_not_explode():
    chain = "f0; " + "; ".join(f"f{k}=select(step(x-{k}), f{k + 1}/x, f{k + 1}+x)" for k in range(60)) + "; f60=x"
    expression = parse(chain)
    assert len(expression.nodes) < 5_000


def test_a_root_at_zero_has_a_finite_gradient():
    mixing = parse("sqrt(e1*e2)*x")
    gradient = jax.grad(lambda e: mixing({"e1": e[0], "e2": e[1], "x": 2.0}))(jnp.array([0.0, 0.5]))
    np.testing.assert_array_equal(gradient, 0.0)
    assert jax.grad(lambda e: parse("e^(1/6)")({"e": e}))(0.0) == 0.0
    assert np.isnan(parse("sqrt(x)")({"x": -1.0}))


def test_single_precision_and_integers():
    x = jnp.array([0.3, 0.7], jnp.float32)
    texts = [text for text in listed(FUNCTIONS) + listed(POWERS) if "z" not in text and "y" not in text]
    for text in texts:
        assert parse(text)({"x": x}).dtype == jnp.float32 or not parse(text).names, text
    assert (parse("x")({"x": x}) * parse("5*2")({})).dtype == jnp.float32
    assert parse("n^2/2")({"n": 3}) == 4.5
