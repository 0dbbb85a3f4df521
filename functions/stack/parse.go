package stack

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"

	"github.com/podsnap/podsnap/functions"
	"go.yaml.in/yaml/v3"
)

// What a file may be: it comes from people, and from strangers' repositories.
const (
	maxSize  = 1 << 20
	maxDepth = 16
	maxNodes = 100_000
)

// Parse reads a stack. Faults name their line. Environment files are not read.
func Parse(r io.Reader, getenv func(string) (string, bool)) (*Stack, error) {
	s := &Stack{}
	if err := decode(r, getenv, s); err != nil {
		return nil, err
	}
	if p := s.Provider.Name; p != "" && p != "openfaas" && p != "faas" {
		return nil, fmt.Errorf("provider.name is %q: it must be openfaas", p)
	}
	for name, f := range s.Functions {
		if msg := functions.ValidName(name); msg != "" {
			return nil, fmt.Errorf("function %q: its name %s", name, msg)
		}
		if f.Handler == "" && !f.SkipBuild && f.Image == "" {
			return nil, fmt.Errorf("function %s: give lang and handler to build it, or an image to run", name)
		}
		f.Name = name
		s.Functions[name] = f
	}
	return s, nil
}

// decode reads YAML into a struct, strictly.
func decode(r io.Reader, getenv func(string) (string, bool), into any) error {
	b, err := io.ReadAll(io.LimitReader(r, maxSize+1))
	if err != nil {
		return err
	}
	if len(b) > maxSize {
		return fmt.Errorf("the file has more than %d bytes", maxSize)
	}
	text, err := substitute(string(b), getenv)
	if err != nil {
		return err
	}
	if len(text) > 4*maxSize {
		return fmt.Errorf("the file has more than %d bytes after substitution", 4*maxSize)
	}
	d := yaml.NewDecoder(strings.NewReader(text))
	var doc yaml.Node
	if err := d.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			return errors.New("the file is empty")
		}
		return tidy(err)
	}
	c := checker{}
	if err := c.check(&doc, reflect.TypeOf(into).Elem(), 0); err != nil {
		return err
	}
	return tidy(doc.Decode(into))
}

// tidy drops the library's name from an error.
func tidy(err error) error {
	if err == nil {
		return nil
	}
	if te, ok := errors.AsType[*yaml.TypeError](err); ok {
		return errors.New(strings.Join(te.Errors, "; "))
	}
	return errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
}

// checker finds fields that the type does not have: a typing error in one would
// otherwise be silent.
type checker struct{ nodes int }

func (c *checker) check(n *yaml.Node, t reflect.Type, depth int) error {
	if c.nodes++; c.nodes > maxNodes || depth > maxDepth {
		return fmt.Errorf("line %d: the file is too big or too deep", n.Line)
	}
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if n.Kind == yaml.AliasNode {
		return c.check(n.Alias, t, depth+1)
	}
	if n.Kind == yaml.MappingNode {
		return c.mapping(n, t, depth)
	}
	for _, child := range n.Content {
		if err := c.check(child, element(n, t), depth+1); err != nil {
			return err
		}
	}
	return nil
}

func element(n *yaml.Node, t reflect.Type) reflect.Type {
	if n.Kind == yaml.DocumentNode {
		return t
	}
	if t != nil && t.Kind() == reflect.Slice {
		return t.Elem()
	}
	return nil
}

func (c *checker) mapping(n *yaml.Node, t reflect.Type, depth int) error {
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		var inner reflect.Type
		switch {
		case t == nil || key.Tag == "!!merge":
			inner = t
		case t.Kind() == reflect.Map:
			inner = t.Elem()
		case t.Kind() == reflect.Struct:
			known := fields(t)
			f, ok := known[key.Value]
			if !ok {
				return fmt.Errorf("line %d: unknown field %q%s", key.Line, key.Value, suggest(key.Value, known))
			}
			inner = f
		}
		if err := c.check(value, inner, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func fields(t reflect.Type) map[string]reflect.Type {
	out := map[string]reflect.Type{}
	for f := range t.Fields() {
		if name := f.Tag.Get("yaml"); name != "-" {
			out[name] = f.Type
		}
	}
	return out
}

// suggest names the field that was probably meant.
func suggest(word string, known map[string]reflect.Type) string {
	best, least := "", 1+max(2, len(word)/3)
	for k := range known {
		if d := distance(strings.ToLower(strings.ReplaceAll(word, "-", "_")), k); d < least || d == least && k < best {
			best, least = k, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(": did you mean %q?", best)
}

// distance is the number of letters to change, add or drop.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		last := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := last
			if a[i] != b[j] {
				cost = 1 + min(last, row[j], row[j+1])
			}
			last, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}

// substitute replaces ${NAME}, ${NAME-otherwise} and ${NAME:-otherwise} (the
// latter also for an empty variable) in the text. $${ is a literal ${. A
// variable that is not set is empty.
func substitute(s string, getenv func(string) (string, bool)) (string, error) {
	var out bytes.Buffer
	line := 1
	for i := 0; i < len(s); i++ {
		switch {
		case strings.HasPrefix(s[i:], "$${"):
			out.WriteString("${")
			i += 2
		case strings.HasPrefix(s[i:], "${"):
			end := closing(s[i+2:])
			if end < 0 {
				return "", fmt.Errorf("line %d: ${ without }", line)
			}
			v, err := expand(s[i+2:i+2+end], getenv, 0)
			if err != nil {
				return "", fmt.Errorf("line %d: %w", line, err)
			}
			out.WriteString(v)
			i += 2 + end
		default:
			if s[i] == '\n' {
				line++
			}
			out.WriteByte(s[i])
		}
	}
	return out.String(), nil
}

// closing finds the brace that ends an expression; defaults may hold others. It
// is on the same line.
func closing(s string) int {
	open := 0
	for i := range len(s) {
		switch s[i] {
		case '{':
			open++
		case '}':
			if open == 0 {
				return i
			}
			open--
		case '\n':
			return -1
		}
	}
	return -1
}

func expand(e string, getenv func(string) (string, bool), depth int) (string, error) {
	end := strings.IndexFunc(e, func(r rune) bool {
		return r != '_' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
	})
	name, rest := e, ""
	if end >= 0 {
		name, rest = e[:end], e[end:]
	}
	if name == "" || depth > maxDepth {
		return "", fmt.Errorf("${%s} is not a variable: write ${NAME} or ${NAME:-default}", e)
	}
	v, ok := getenv(name)
	otherwise, colon := strings.CutPrefix(rest, ":-")
	if !colon {
		var dash bool
		if otherwise, dash = strings.CutPrefix(rest, "-"); !dash && rest != "" {
			return "", fmt.Errorf("${%s}: only ${NAME} and ${NAME:-default} are known", e)
		}
	}
	if ok && (v != "" || !colon) || rest == "" {
		return v, nil
	}
	return nested(otherwise, getenv, depth)
}

// nested expands the variables inside a default.
func nested(s string, getenv func(string) (string, bool), depth int) (string, error) {
	i := strings.Index(s, "${")
	if i < 0 {
		return s, nil
	}
	end := closing(s[i+2:])
	if end < 0 {
		return s, nil
	}
	v, err := expand(s[i+2:i+2+end], getenv, depth+1)
	if err != nil {
		return "", err
	}
	rest, err := nested(s[i+3+end:], getenv, depth)
	return s[:i] + v + rest, err
}
