"""A Flask app that renders a page from a template."""

from flask import Flask, render_template

PRODUCTS = [
    {"name": f"Lamp <no. {number}>", "price": 19.9 + number, "stock": number % 7}
    for number in range(20)
]

app = Flask(__name__)


@app.get("/")
def page() -> str:
    """Show a list of twenty products."""
    return render_template("products.html", title="Products & more", products=PRODUCTS)
