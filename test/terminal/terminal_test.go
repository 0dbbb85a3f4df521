package terminal

import (
	"errors"
	"os/exec"
	"strings"
	"testing"
)

func TestScreen(t *testing.T) {
	for name, c := range map[string]struct{ wrote, shows string }{
		"lines":              {"ab\r\ncd", "ab|cd||"},
		"over the end":       {"abcdefgh", "abcdef|gh||"},
		"the last column":    {"abcdef\r\ngh", "abcdef|gh||"},
		"places":             {"\x1b[2;3Hx\x1b[1;1Hy\x1b[Hz\x1b[4dw", "z|  x|| w"},
		"relative":           {"abc\x1b[2D-\x1b[Bv\x1b[A\x1b[C+\x1b[6G!", "a-c +!|  v||"},
		"to the end":         {"abc\r\ndef\x1b[1;2H\x1b[J", "a||||"},
		"row":                {"abcdef\x1b[1;3H\x1b[1K\x1b[2;1Hx\x1b[2K", "   def||||"},
		"all":                {"abc\r\ndef\x1b[2J", "|||"},
		"some":               {"abcdef\x1b[1;2H\x1b[3X", "a   ef|||"},
		"moves up":           {"1\r\n2\r\n3\r\n4\r\n5", "2|3|4|5|"},
		"colours and titles": {"\x1b[38;5;12ma\x1b[0m\x1b]0;title\x07b\x1b(Bc\x1b]1;x\x1b\\d", "abcd|||"},
		"saved":              {"\x1b[2;2H\x1b7\x1b[4;4Hx\x1b8y", "| y||   x|"},
		"another screen":     {"abc\x1b[?1049hd\x1b[?25l", "d|||"},
		"runes":              {"é│x", "é│x|||"},
	} {
		t.Run(name, func(t *testing.T) {
			var want [4]string
			copy(want[:], strings.Split(c.shows, "|"))
			for _, size := range []int{len(c.wrote), 1} { // at once, and byte by byte
				s := newScreen(4, 6)
				for rest := c.wrote; rest != ""; rest = rest[min(size, len(rest)):] {
					if _, err := s.Write([]byte(rest[:min(size, len(rest))])); err != nil {
						t.Fatal(err)
					}
				}
				if got := s.String(); got != strings.Join(want[:], "\n")+"\n" {
					t.Errorf("%d bytes at a time: %q shows\n%swant\n%s", size, c.wrote, got, strings.Join(want[:], "\n"))
				}
			}
		})
	}
}

func TestProgram(t *testing.T) {
	s := Start(t, exec.Command("sh", "-c", "stty size; tty; read a; clear; echo \"<$a>\"; read b; echo end"), 12, 40)
	s.Shows("12 40", "/dev/pts/")
	s.Type("typed\n")
	s.Until(func(screen string) error {
		if !strings.HasPrefix(screen, "<typed>") {
			return errors.New("it is not cleared")
		}
		return nil
	})
	s.Type("\n")
	if out := s.End(); !strings.Contains(out, "end") {
		t.Errorf("in the end it shows\n%s", out)
	}
}
