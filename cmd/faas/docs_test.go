package main

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// The documents' `faas` lines are commands that exist, with flags that exist.
// Nothing is run.

var (
	block = regexp.MustCompile("(?s)```[a-z]*\n(.*?)```")
	piece = regexp.MustCompile("`([^`\n]+)`")
)

// words splits a shell line into its commands, and those into words. Comments
// and redirections are left out.
func words(line string) (out [][]string) {
	var cmd []string
	var w strings.Builder
	quote, has, skip := rune(0), false, false
	end := func() {
		if has && !skip {
			cmd = append(cmd, w.String())
		}
		if has {
			skip = false
		}
		w.Reset()
		has = false
	}
	next := func() {
		end()
		if len(cmd) > 0 {
			out = append(out, cmd)
		}
		cmd, skip = nil, false
	}
	for _, r := range line {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			w.WriteRune(r)
		case r == '\'' || r == '"':
			quote, has = r, true
		case r == '#' && !has:
			next()
			return out
		case r == ' ' || r == '\t' || r == '\r' || r == '\n':
			end()
		case r == '|' || r == '&' || r == ';':
			next()
		case r == '<' || r == '>':
			end()
			skip = true
		default:
			w.WriteRune(r)
			has = true
		}
	}
	next()
	return out
}

// resolve finds the command that args mean and reads its flags. whole requires
// the arguments too: in running text they may be left out.
func resolve(args []string, whole bool) error {
	root := newRoot()
	cmd, rest, err := root.Find(args)
	if err != nil {
		return err
	}
	if cmd == root && len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		return errors.New("there is no such command")
	}
	cmd.InitDefaultHelpFlag()
	if err := cmd.ParseFlags(rest); err != nil && !errors.Is(err, pflag.ErrHelp) {
		return err
	}
	if help, err := cmd.Flags().GetBool("help"); !whole || err == nil && help {
		return nil
	}
	return cmd.ValidateArgs(cmd.Flags().Args())
}

// faas takes the arguments of the faas commands out of a line.
func faas(line string) (out [][]string) {
	line = strings.TrimPrefix(strings.TrimSpace(line), "$ ")
	for _, cmd := range words(line) {
		for len(cmd) > 0 && (slices.Contains([]string{"sudo", "exec", "then", "do", "else"}, cmd[0]) || regexp.MustCompile(`^[A-Z_]+=`).MatchString(cmd[0])) {
			cmd = cmd[1:]
		}
		if len(cmd) > 0 && filepath.Base(cmd[0]) == "faas" {
			out = append(out, cmd[1:])
		}
	}
	return out
}

func TestResolve(t *testing.T) {
	for line, ok := range map[string]bool{
		"faas up && faas list":                         true,
		"echo '# a | b' | faas invoke x -H 'A: b' > y": true,
		"$ faas server --listen 127.0.0.1:1 # why not": true,
		"faas server --help":                           true,
		"faas nothing":                                 false,
		"faas up && faas list --nothing":               false,
		"faas invoke":                                  false,
		"faas server sideways":                         false,
	} {
		got := true
		for _, args := range faas(line) {
			got = got && resolve(args, true) == nil
		}
		if len(faas(line)) == 0 || got != ok {
			t.Errorf("%q: %v, want %v", line, got, ok)
		}
	}
}

func TestDocuments(t *testing.T) {
	found := 0
	check := func(where, line string, whole bool) {
		for _, args := range faas(line) {
			found++
			if err := resolve(args, whole); err != nil {
				t.Errorf("%s: %q: %v", where, line, err)
			}
		}
	}
	flags := serverFlagNames()
	for _, glob := range []string{"../../*.md", "../../docs/*.md", "../../docs/*/*.md", "../../functions/examples/*.md"} {
		files, err := filepath.Glob(glob)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			text := read(t, f)
			for _, m := range block.FindAllStringSubmatch(text, -1) {
				for line := range strings.Lines(m[1]) {
					check(f, line, true)
				}
			}
			for _, m := range piece.FindAllStringSubmatch(block.ReplaceAllString(text, ""), -1) {
				check(f, m[1], false)
				name, ok := strings.CutPrefix(m[1], "--")
				if name, _, _ = strings.Cut(name, "="); ok && !anywhere(newRoot(), strings.Fields(name)[0]) {
					t.Errorf("%s names the flag %s, which no command has", f, m[1])
				}
				if env, ok := strings.CutPrefix(m[1], "PODSNAP_"); ok {
					env, _, _ = strings.Cut(env, "=")
					if !slices.Contains(flags, strings.ToLower(strings.ReplaceAll(env, "_", "-"))) {
						t.Errorf("%s names %s, but `faas server` has no such flag", f, m[1])
					}
				}
			}
		}
	}
	if found == 0 {
		t.Error("no document names a command")
	}
}

// The unit, the Makefile and the commands' own examples name what exists.
func TestUnitAndExamples(t *testing.T) {
	units, err := filepath.Glob("../../deploy/systemd/*.service")
	if err != nil || len(units) == 0 {
		t.Fatalf("no units: %v", err)
	}
	for _, u := range units {
		found := 0
		for line := range strings.Lines(read(t, u)) {
			if cmd, ok := strings.CutPrefix(strings.TrimSpace(line), "Exec"); ok {
				_, cmd, _ = strings.Cut(cmd, "=")
				for _, args := range faas(cmd) {
					found++
					if err := resolve(args, true); err != nil {
						t.Errorf("%s: %q: %v", u, cmd, err)
					}
				}
			}
		}
		if found == 0 {
			t.Errorf("%s starts no faas", u)
		}
	}
	for line := range strings.Lines(read(t, "../../Makefile")) {
		for _, args := range faas(strings.TrimLeft(line, "\t@")) {
			if err := resolve(args, true); err != nil {
				t.Errorf("Makefile: %q: %v", strings.TrimSpace(line), err)
			}
		}
	}
	each(newRoot(), func(c *cobra.Command) {
		for line := range strings.Lines(c.Example) {
			for _, args := range faas(line) {
				if err := resolve(args, true); err != nil {
					t.Errorf("%s: example %q: %v", c.CommandPath(), strings.TrimSpace(line), err)
				}
			}
		}
	})
}

func each(c *cobra.Command, do func(*cobra.Command)) {
	do(c)
	for _, s := range c.Commands() {
		each(s, do)
	}
}

// anywhere reports whether any command has the flag.
func anywhere(root *cobra.Command, flag string) (found bool) {
	each(root, func(c *cobra.Command) {
		c.InitDefaultHelpFlag()
		found = found || c.Flags().Lookup(flag) != nil || c.PersistentFlags().Lookup(flag) != nil
	})
	return found
}

func serverFlagNames() (out []string) {
	f := pflag.NewFlagSet("server", pflag.ContinueOnError)
	(&serverFlags{}).add(f)
	f.VisitAll(func(fl *pflag.Flag) { out = append(out, fl.Name) })
	return out
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Every command shows how it is used.
func TestExamples(t *testing.T) {
	var look func(*cobra.Command)
	look = func(c *cobra.Command) {
		if c.Hidden || c.Name() == "help" {
			return
		}
		if c.Example == "" {
			t.Errorf("%s has no example: a person who asks for --help wants one", c.CommandPath())
		}
		for _, sub := range c.Commands() {
			look(sub)
		}
	}
	look(newRoot())
}
