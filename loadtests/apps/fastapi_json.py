"""A FastAPI app with a pydantic model in and another one out."""

import os
import secrets
from decimal import Decimal

from fastapi import FastAPI
from pydantic import BaseModel, Field

WORKER = secrets.token_hex(4)
"""Tells workers apart, be they processes, threads or interpreters."""


class Item(BaseModel):
    """A line of an order."""

    sku: str = Field(min_length=3, max_length=20)
    quantity: int = Field(ge=1, le=1000)
    price: Decimal = Field(ge=0, max_digits=10, decimal_places=2)


class Order(BaseModel):
    """What a client sends."""

    customer: str = Field(min_length=1, max_length=80)
    email: str | None = None
    items: list[Item] = Field(min_length=1, max_length=50)
    tags: set[str] = set()


class Receipt(BaseModel):
    """What it gets back."""

    customer: str
    lines: int
    total: Decimal
    items: list[Item]


app = FastAPI()


@app.post("/orders")
async def order(order: Order) -> Receipt:
    """Add an order up."""
    total = sum((item.price * item.quantity for item in order.items), Decimal(0))
    return Receipt(customer=order.customer, lines=len(order.items), total=total, items=order.items)


@app.get("/worker")
async def worker() -> dict[str, str]:
    """Say which worker answers."""
    return {"worker": f"{os.getpid()}-{WORKER}"}
