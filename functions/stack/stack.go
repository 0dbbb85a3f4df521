// Package stack reads stack.yaml: the functions of a project, and how they are
// built and deployed.
package stack

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/podsnap/podsnap/internal/openfaas"
	"sigs.k8s.io/yaml"
)

// DefaultFile is the name under which a stack is looked for; stack.yml is
// taken too.
const DefaultFile = "stack.yaml"

// maxSize of a file, bytes.
const maxSize = 1 << 20

// Stack is a file's content.
type Stack struct {
	Version       any                 `json:"version,omitempty"` // a number or a string
	Provider      Provider            `json:"provider"`
	Functions     map[string]Function `json:"functions,omitempty"`
	Configuration Configuration       `json:"configuration,omitempty"`

	Dir string `json:"-"` // of the file: relative paths begin there
}

// Provider says where the functions go.
type Provider struct {
	Name    string `json:"name,omitempty"` // openfaas
	Gateway string `json:"gateway,omitempty"`
}

// Function is one entry.
type Function struct {
	Name string `json:"-"` // its key

	Lang         string            `json:"lang,omitempty"` // a template's name; "dockerfile" for one's own
	Handler      string            `json:"handler,omitempty"`
	Image        string            `json:"image,omitempty"`
	Process      string            `json:"fprocess,omitempty"`
	Environment  map[string]string `json:"environment,omitempty"`
	EnvFiles     []string          `json:"environment_file,omitempty"`
	Secrets      []string          `json:"secrets,omitempty"`
	SkipBuild    bool              `json:"skip_build,omitempty"`
	Constraints  []string          `json:"constraints,omitempty"`
	Labels       map[string]string `json:"labels,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
	Limits       *Resources        `json:"limits,omitempty"`
	Requests     *Resources        `json:"requests,omitempty"`
	ReadOnly     bool              `json:"readonly_root_filesystem,omitempty"`
	BuildOptions []string          `json:"build_options,omitempty"`
	BuildArgs    map[string]string `json:"build_args,omitempty"`
	BuildSecrets map[string]string `json:"build_secrets,omitempty"`
	Namespace    string            `json:"namespace,omitempty"`
	Platforms    string            `json:"platforms,omitempty"`
}

// Resources are quantities as Kubernetes writes them.
type Resources struct {
	CPU    string `json:"cpu,omitempty"`
	Memory string `json:"memory,omitempty"`
}

// Configuration is about templates.
type Configuration struct {
	Templates []Source `json:"templates,omitempty"`
	Copy      []string `json:"copy,omitempty"`
}

// Source says where a template comes from.
type Source struct {
	Name   string `json:"name"`
	Source string `json:"source,omitempty"`
}

// Find is the stack file to use: path, or the one in the working folder; "" and
// no error when none was named and there is none.
func Find(path string) (string, error) {
	if path != "" {
		if _, err := os.Stat(path); err != nil {
			return "", fmt.Errorf("stack file: %w", err)
		}
		return path, nil
	}
	for _, p := range []string{DefaultFile, "stack.yml"} {
		if _, err := os.Stat(p); err == nil {
			return p, nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	return "", nil
}

// Load reads a stack file. ${NAME} and ${NAME:-default} stand for variables of
// the environment, which lookup finds.
func Load(path string, lookup func(string) (string, bool)) (*Stack, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("stack file: %w", err)
	}
	if st.Size() > maxSize {
		return nil, fmt.Errorf("stack file %s: it has %d bytes, at most %d are read", path, st.Size(), maxSize)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("stack file: %w", err)
	}
	s, err := Parse(b, lookup)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	s.Dir = filepath.Dir(path)
	return s, nil
}

// Parse reads a stack file's content. A field that is not known is an error:
// it is a typing mistake more often than not.
func Parse(b []byte, lookup func(string) (string, bool)) (*Stack, error) {
	text, err := substitute(string(b), lookup)
	if err != nil {
		return nil, err
	}
	var s Stack
	if err := yaml.UnmarshalStrict([]byte(text), &s); err != nil {
		return nil, explain(err)
	}
	if s.Provider.Name != "" && s.Provider.Name != "openfaas" {
		return nil, fmt.Errorf("provider.name is %q: it must be openfaas", s.Provider.Name)
	}
	var faults []error
	for name, f := range s.Functions {
		f.Name = name
		s.Functions[name] = f
		if f.Image == "" {
			faults = append(faults, fmt.Errorf("functions.%s.image is missing: name the image to build or deploy, such as %s:latest", name, name))
		}
		if !f.SkipBuild && f.Handler != "" && f.Lang == "" {
			faults = append(faults, fmt.Errorf("functions.%s.lang is missing: name a template (`faas template list`), or set skip_build", name))
		}
	}
	slices.SortFunc(faults, func(a, b error) int { return cmp.Compare(a.Error(), b.Error()) })
	return &s, errors.Join(faults...)
}

var unknown = regexp.MustCompile(`unknown field "([^"]+)"`)

// explain makes the parser's error one that helps.
func explain(err error) error {
	text := strings.TrimPrefix(strings.TrimPrefix(err.Error(), "error unmarshaling JSON: "), "while decoding JSON: ")
	text = strings.TrimPrefix(text, "json: ")
	if m := unknown.FindStringSubmatch(text); m != nil {
		name := m[1][strings.LastIndex(m[1], ".")+1:]
		if known := nearest(name); known != "" {
			return fmt.Errorf("%s: did you mean %q?", text, known)
		}
	}
	return errors.New(text)
}

// fields are the names that a person may have meant.
var fields = []string{
	"version", "provider", "functions", "configuration", "name", "gateway", "lang", "handler", "image", "fprocess",
	"environment", "environment_file", "secrets", "skip_build", "constraints", "labels", "annotations", "limits", "requests",
	"readonly_root_filesystem", "build_options", "build_args", "build_secrets", "namespace", "platforms", "cpu", "memory", "templates", "copy", "source",
}

// nearest is the known name that differs least, "" when all differ much.
func nearest(name string) string {
	best, at := "", max(2, len(name)/3)+1
	for _, f := range fields {
		if d := distance(strings.ToLower(name), f); d < at {
			best, at = f, d
		}
	}
	return best
}

// distance is Levenshtein's.
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
				cost++
			}
			last = row[j+1]
			row[j+1] = min(cost, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}

var variable = regexp.MustCompile(`\$\{([A-Za-z_][A-Za-z0-9_]*)(:?-[^}]*)?\}`)

// substitute replaces variables; one without a value and without a default is
// empty, as envsubst has it.
func substitute(text string, lookup func(string) (string, bool)) (string, error) {
	out := variable.ReplaceAllStringFunc(text, func(m string) string {
		p := variable.FindStringSubmatch(m)
		v, ok := lookup(p[1])
		switch {
		case strings.HasPrefix(p[2], ":-") && v == "":
			return p[2][2:]
		case strings.HasPrefix(p[2], "-") && !ok:
			return p[2][1:]
		}
		return v
	})
	if len(out) > 4*maxSize {
		return "", errors.New("the variables make it too large")
	}
	return out, nil
}

// List are the functions by name.
func (s *Stack) List() []Function {
	return slices.SortedFunc(maps.Values(s.Functions), func(a, b Function) int { return cmp.Compare(a.Name, b.Name) })
}

// Filter keeps the functions whose names match a pattern of the shell's kind
// and a regular expression; an empty one matches all. Keeping none is an error.
func (s *Stack) Filter(glob, expr string) error {
	re, err := regexp.Compile(expr)
	if err != nil {
		return fmt.Errorf("--regex %q: %w", expr, err)
	}
	if _, err := filepath.Match(glob, ""); err != nil {
		return fmt.Errorf("--filter %q: %w", glob, err)
	}
	all := slices.Sorted(maps.Keys(s.Functions))
	maps.DeleteFunc(s.Functions, func(name string, _ Function) bool {
		ok, _ := filepath.Match(cmp.Or(glob, "*"), name) // the pattern was checked
		return !ok || !re.MatchString(name)
	})
	if len(s.Functions) == 0 {
		if len(all) == 0 {
			return errors.New("the stack has no functions")
		}
		return fmt.Errorf("no function matches; the stack has %s", strings.Join(all, ", "))
	}
	return nil
}

// Deployment is what the gateway is asked for. Files of variables are read
// below dir; what stands in the entry itself wins.
func (f Function) Deployment(dir string) (openfaas.FunctionDeployment, error) {
	d := openfaas.FunctionDeployment{
		Service: f.Name, Image: f.Image, Namespace: f.Namespace, EnvProcess: f.Process,
		Constraints: f.Constraints, Secrets: f.Secrets, Labels: maps.Clone(f.Labels), Annotations: maps.Clone(f.Annotations),
		Limits: f.Limits.wire(), Requests: f.Requests.wire(), ReadOnlyRootFilesystem: f.ReadOnly,
	}
	for _, file := range f.EnvFiles {
		path := file
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, file)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return d, fmt.Errorf("functions.%s.environment_file: %w", f.Name, err)
		}
		var v struct {
			Environment map[string]string `json:"environment"`
		}
		if err := yaml.UnmarshalStrict(b, &v); err != nil {
			return d, fmt.Errorf("functions.%s.environment_file %s: %w", f.Name, file, explain(err))
		}
		if d.EnvVars == nil {
			d.EnvVars = map[string]string{}
		}
		maps.Copy(d.EnvVars, v.Environment)
	}
	if d.EnvVars == nil {
		d.EnvVars = maps.Clone(f.Environment)
	} else {
		maps.Copy(d.EnvVars, f.Environment)
	}
	return d, nil
}

func (r *Resources) wire() *openfaas.Resources {
	if r == nil {
		return nil
	}
	return &openfaas.Resources{CPU: r.CPU, Memory: r.Memory}
}

// Add writes an entry for a new function at the end of a stack file, which is
// made when it is not there. Comments and order of the file stay.
func Add(path string, f Function) error {
	entry, err := yaml.Marshal(map[string]Function{f.Name: f})
	if err != nil {
		return err
	}
	indented := "  " + strings.ReplaceAll(strings.TrimRight(string(entry), "\n"), "\n", "\n  ") + "\n"
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		head := "version: 1.0\nprovider:\n  name: openfaas\nfunctions:\n"
		return os.WriteFile(path, []byte(head+indented), 0o644) //nolint:gosec // a file of the user's project
	}
	if err != nil {
		return err
	}
	s, err := Parse(b, os.LookupEnv)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if _, ok := s.Functions[f.Name]; ok {
		return fmt.Errorf("%s has a function %s already", path, f.Name)
	}
	text := strings.TrimRight(string(b), "\n") + "\n"
	at := end(text)
	if at < 0 {
		text += "functions:\n"
		at = len(text)
	}
	return os.WriteFile(path, []byte(text[:at]+indented+text[at:]), 0o644) //nolint:gosec // a file of the user's project
}

// end is where the block of functions ends in a file, -1 when it has none.
func end(text string) int {
	at, in := 0, false
	last := -1
	for line := range strings.Lines(text) {
		at += len(line)
		switch {
		case strings.HasPrefix(line, "functions:"):
			in, last = true, at
		case in && (strings.TrimSpace(line) == "" || strings.HasPrefix(strings.TrimSpace(line), "#")):
		case in && strings.HasPrefix(line, " "):
			last = at
		default:
			in = false
		}
	}
	return last
}
