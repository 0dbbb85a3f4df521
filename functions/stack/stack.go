// Package stack reads stack.yaml, the file that says how functions are built and
// deployed, in the format that faas-cli users know.
package stack

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/functions"
)

// DefaultFile is what is read when no file is named.
const DefaultFile = "stack.yaml"

// Stack is a stack.yaml.
type Stack struct {
	Version       string              `yaml:"version"`
	Provider      Provider            `yaml:"provider"`
	Functions     map[string]Function `yaml:"functions"`
	Configuration Configuration       `yaml:"configuration"`
}

// Provider says where the functions go.
type Provider struct {
	Name    string `yaml:"name"` // openfaas
	Gateway string `yaml:"gateway"`
	Network string `yaml:"network"` // of old files; not used
}

// Function is one entry of functions.
type Function struct {
	Name string `yaml:"-"` // the entry's key

	Lang    string `yaml:"lang"`    // a template's name; "" only with skip_build
	Handler string `yaml:"handler"` // folder; as written, relative to the file
	Image   string `yaml:"image"`

	FProcess        string            `yaml:"fprocess"`
	Environment     map[string]string `yaml:"environment"` // after Load: with those of the files
	EnvironmentFile []string          `yaml:"environment_file"`
	Secrets         []string          `yaml:"secrets"`
	Constraints     []string          `yaml:"constraints"`
	Labels          map[string]string `yaml:"labels"`
	Annotations     map[string]string `yaml:"annotations"`
	Limits          *Resources        `yaml:"limits"`
	Requests        *Resources        `yaml:"requests"`
	ReadOnlyRoot    bool              `yaml:"readonly_root_filesystem"`
	Namespace       string            `yaml:"namespace"`

	SkipBuild    bool              `yaml:"skip_build"`
	BuildOptions []string          `yaml:"build_options"`
	BuildArgs    map[string]string `yaml:"build_args"`
	BuildSecrets map[string]string `yaml:"build_secrets"` // name: file
	Platforms    string            `yaml:"platforms"`

	Dir string `yaml:"-"` // of the file; Handler is relative to it
}

// Resources are quantities as written.
type Resources struct {
	Memory string `yaml:"memory"`
	CPU    string `yaml:"cpu"`
}

// Configuration is about templates and files that builds share.
type Configuration struct {
	Templates []TemplateSource `yaml:"templates"`
	Copy      []string         `yaml:"copy"` // files and folders that go into every build
}

// TemplateSource is a template that is not built in.
type TemplateSource struct {
	Name   string `yaml:"name"`
	Source string `yaml:"source"`
}

// Load reads a file, and the environment files that it names. getenv answers
// for ${NAME}; it may be os.LookupEnv.
func Load(file string, getenv func(string) (string, bool)) (*Stack, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no %s here: make a function with `faas new --lang go NAME`, or name the file with -f: %w", file, fs.ErrNotExist)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	s, err := Parse(f, getenv)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	dir := filepath.Dir(file)
	for name, fn := range s.Functions {
		fn.Dir = dir
		if fn.Environment, err = fn.environment(getenv); err != nil {
			return nil, fmt.Errorf("%s: function %s: %w", file, name, err)
		}
		s.Functions[name] = fn
	}
	return s, nil
}

// environment is that of the entry, and over it that of each environment file.
func (f *Function) environment(getenv func(string) (string, bool)) (map[string]string, error) {
	env := f.Environment
	for _, name := range f.EnvironmentFile {
		if !filepath.IsAbs(name) {
			name = filepath.Join(f.Dir, name)
		}
		file, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("environment_file: %w", err)
		}
		var e struct {
			Environment map[string]string `yaml:"environment"`
		}
		err = decode(file, getenv, &e)
		_ = file.Close()
		if err != nil {
			return nil, fmt.Errorf("environment_file %s: %w", name, err)
		}
		if env == nil {
			env = map[string]string{}
		}
		maps.Copy(env, e.Environment)
	}
	return env, nil
}

// Select lists the functions whose name matches, ordered by name: filter is a
// pattern with *, expression a regular expression; "" is every function.
func (s *Stack) Select(filter, expression string) ([]Function, error) {
	if filter != "" && expression != "" {
		return nil, errors.New("give a filter or a regular expression, not both")
	}
	match := func(string) bool { return true }
	switch {
	case filter != "":
		if _, err := path.Match(filter, ""); err != nil {
			return nil, fmt.Errorf("filter %q: %w", filter, err)
		}
		match = func(name string) bool { ok, _ := path.Match(filter, name); return ok }
	case expression != "":
		re, err := regexp.Compile(expression)
		if err != nil {
			return nil, fmt.Errorf("regular expression %q: %w", expression, err)
		}
		match = re.MatchString
	}
	var out []Function
	for name, f := range s.Functions {
		if match(name) {
			f.Name = name
			out = append(out, f)
		}
	}
	slices.SortFunc(out, func(a, b Function) int { return compare(a.Name, b.Name) })
	if len(out) == 0 && filter+expression != "" {
		return nil, fmt.Errorf("no function matches %q", filter+expression)
	}
	return out, nil
}

func compare(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// HandlerDir is the handler's folder as a path that can be opened.
func (f *Function) HandlerDir() string {
	if filepath.IsAbs(f.Handler) {
		return f.Handler
	}
	return filepath.Join(f.Dir, f.Handler)
}

// ImageName is the image to build and run: the entry's, or the function's name.
func (f *Function) ImageName() string {
	if f.Image == "" {
		return f.Name + ":latest"
	}
	return f.Image
}

// Object is the function to deploy, with its defaults; functions.Validate says
// what is wrong with it.
func (f *Function) Object() *api.Function {
	o := &api.Function{Spec: api.FunctionSpec{
		Name: f.Name, Image: f.ImageName(), Handler: f.Handler, Process: f.FProcess,
		Annotations: f.Annotations, Labels: f.Labels, Environment: f.Environment,
		Constraints: f.Constraints, Secrets: f.Secrets,
		Limits: f.Limits.object(), Requests: f.Requests.object(),
		ReadOnlyRootFilesystem: f.ReadOnlyRoot,
	}}
	o.Name, o.Namespace = f.Name, f.Namespace
	functions.Default(o)
	return o
}

func (r *Resources) object() *api.FunctionResources {
	if r == nil || *r == (Resources{}) {
		return nil
	}
	return &api.FunctionResources{Memory: r.Memory, CPU: r.CPU}
}
