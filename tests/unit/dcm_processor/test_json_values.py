"""Numbers as DICOM files hold them, and the order they give (test_elements.py has how values are shown)."""

from dcm_processor.json_values import sort_key


def test_instances_are_ordered_by_number_then_uid() -> None:
    instances = [("10", "1.1"), (" 9 ", "1.2"), (None, "1.0"), ("9", "1.1"), ("x", "0.9"), ("-1", "1.7"), ("9.5", "1")]
    ordered = sorted(instances, key=lambda instance: sort_key(*instance))
    assert ordered == [
        ("-1", "1.7"), ("9", "1.1"), (" 9 ", "1.2"), ("9.5", "1"), ("10", "1.1"), ("x", "0.9"), (None, "1.0"),
    ]  # fmt: skip
