"""`mlxr chat` with the real model: on a terminal, and through pipes."""

import time

import pytest

from helpers.command import Terminal, mlxr

ASK = ["--max-tokens", "40", "--system-prompt", "You are a helpful assistant."]


pytestmark = pytest.mark.usefixtures("model_is_ready")


def test_a_conversation_on_a_terminal():
    with Terminal("chat", *ASK, "--max-tokens", "24") as terminal:
        shown = terminal.wait("> ")
        assert "llama (paged)" in shown and "/reset forgets" in shown and "Ctrl-C stops" in shown

        terminal.send("My name is Zebulon.\n")
        terminal.wait("Zebulon.\n")                      # the terminal's own echo
        terminal.wait("\n> ")
        terminal.send("What is my name?\n")
        terminal.wait("What is my name?\n")
        assert "Zebulon" in terminal.wait("\n> ")        # it sees what was said before

        terminal.send("/stats\n")
        shown = terminal.wait("\n> ")
        assert "5 messages" in shown and "tokens computed" in shown and "peak memory" in shown

        terminal.send("/reset\n")
        assert "(forgotten)" in terminal.wait("\n> ")
        terminal.send("What is my name?\n")
        terminal.wait("What is my name?\n")
        assert "Zebulon" not in terminal.wait("\n> ")

        terminal.send("/nonsense\n")
        assert "unknown command /nonsense" in terminal.wait("\n> ")
        terminal.send("\n")                              # an empty line is no message
        terminal.wait("> ")
        terminal.send("/stats\n")
        assert "3 messages" in terminal.wait("\n> ")
        terminal.send("\x04")
        code, shown = terminal.end()
        assert code == 0 and "Traceback" not in shown


def test_ctrl_c_stops_the_answer_and_not_the_program():
    with Terminal("chat", "--max-tokens", "2000", "--ignore-eos") as terminal:
        terminal.wait("> ")
        time.sleep(0.3)                                  # as a person would: after the program waits for input
        terminal.send("\x03")                            # at the prompt: stays
        assert "/exit leaves" in terminal.wait("> ")
        terminal.send("Tell me a very long story.\n")
        terminal.wait("story.\n")
        terminal.wait(" ")                               # the answer has begun
        terminal.send("\x03")
        terminal.wait("(stopped)")
        terminal.wait("> ")
        terminal.send("/stats\n")
        shown = terminal.wait("\n> ")
        assert "2 messages" in shown and "pages 0 used" in shown       # what was said stays; the request is gone
        terminal.send("/exit\n")
        code, shown = terminal.end()
        assert code == 0 and "Traceback" not in shown


def test_through_pipes(tmp_path):
    """Answers alone on stdout, one line a message; a message that is too long does not end the conversation."""
    script = "Say hello.\n" + "word " * 300 + "\n/stats\nSay hello.\n"
    result = mlxr("chat", "--max-tokens", "5", "--context", "120", stdin=script)
    assert result.returncode == 0 and "Traceback" not in result.stderr
    assert len(result.stdout.splitlines()) == 2 and ">" not in result.stdout
    assert "but the context is 120" in result.stderr and "2 messages" in result.stderr
