// Package template holds what a new function starts from, one template for each
// language that the builder knows.
package template

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/podsnap/podsnap/functions"
	"sigs.k8s.io/yaml"
)

// The skeletons' files end in .txt, so that no tool takes them for this
// module's.
//
//go:embed files
var files embed.FS

const suffix = ".txt"

// Template is a language's template.
type Template struct {
	Name          string `json:"-"`
	Language      string `json:"language"` // chooses the build engine
	Description   string `json:"description"`
	FProcess      string `json:"fprocess"`       // becomes the image's; "" when the image needs none
	HandlerFolder string `json:"handler_folder"` // of the skeleton
	Welcome       string `json:"welcome_message"`
}

// List is every template, ordered by name.
func List() ([]Template, error) {
	entries, err := files.ReadDir("files")
	if err != nil {
		return nil, err
	}
	out := make([]Template, 0, len(entries))
	for _, e := range entries {
		t, err := Get(e.Name())
		if err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	return out, nil
}

// Get finds a template by its name; what stands behind an @ (a version) does
// not count.
func Get(name string) (Template, error) {
	name, _, _ = strings.Cut(name, "@")
	b, err := files.ReadFile(path.Join("files", path.Clean("/"+name), "template.yml"))
	if err != nil {
		return Template{}, fmt.Errorf("no template for %q: there are %s", name, strings.Join(names(), ", "))
	}
	t := Template{Name: name}
	if err := yaml.UnmarshalStrict(b, &t); err != nil {
		return Template{}, fmt.Errorf("template %s: %w", name, err)
	}
	return t, nil
}

func names() []string {
	entries, _ := files.ReadDir("files")
	out := make([]string, 0, len(entries))
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

// Config says what function to make.
type Config struct {
	Lang    string
	Name    string
	Dir     string // where the handler's folder and the stack file are; "" is the working directory
	File    string // the stack file's name; "" is stack.yaml
	Prefix  string // of the image: a registry's host, a user; may be empty
	Gateway string // for a new stack file; may be empty
}

// New makes the folder Dir/Name with a handler to start from, and an entry in
// the stack file. It changes nothing that exists but for that entry.
func New(c Config) (Template, error) {
	t, err := Get(c.Lang)
	if err != nil {
		return t, err
	}
	if msg := functions.ValidName(c.Name); msg != "" {
		return t, fmt.Errorf("function name %q: %s", c.Name, msg)
	}
	if c.File == "" {
		c.File = "stack.yaml"
	}
	if c.Dir == "" {
		c.Dir = "."
	}
	file := filepath.Join(c.Dir, c.File)
	old, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return t, err
	}
	text, err := addEntry(string(old), c)
	if err != nil {
		return t, fmt.Errorf("%s: %w", file, err)
	}
	folder := filepath.Join(c.Dir, c.Name)
	if err := os.Mkdir(folder, 0o755); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return t, fmt.Errorf("%s exists: choose another name, or remove it: %w", folder, fs.ErrExist)
		}
		return t, err
	}
	if err := t.skeleton(folder); err != nil {
		return t, err
	}
	return t, os.WriteFile(file, []byte(text), 0o644)
}

// skeleton writes a new handler's files.
func (t Template) skeleton(folder string) error {
	from := path.Join("files", t.Name, t.HandlerFolder)
	return fs.WalkDir(files, from, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		to := filepath.Join(folder, filepath.FromSlash(strings.TrimSuffix(strings.TrimPrefix(p, from), suffix)))
		if e.IsDir() {
			return os.MkdirAll(to, 0o755)
		}
		b, err := files.ReadFile(p)
		if err != nil {
			return err
		}
		mode := fs.FileMode(0o644)
		if strings.HasPrefix(string(b), "#!") {
			mode = 0o755
		}
		return os.WriteFile(to, b, mode)
	})
}
