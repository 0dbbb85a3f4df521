// Package template holds the templates of functions: for each language the
// skeleton of a handler, and what the builder wraps around one.
package template

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"sigs.k8s.io/yaml"
)

//go:embed templates
var files embed.FS

// Template is one language's.
type Template struct {
	Name     string `json:"-"`
	Language string `json:"language"`
	Process  string `json:"fprocess,omitempty"`        // what the watchdog runs; "" when the handler serves itself
	Welcome  string `json:"welcome_message,omitempty"` // for whoever makes a function of it
}

// List are all templates by name.
func List() ([]Template, error) {
	dirs, err := files.ReadDir("templates")
	if err != nil {
		return nil, err
	}
	var out []Template
	for _, d := range dirs {
		t, err := Get(d.Name())
		if err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	return out, nil
}

// Get finds a template.
func Get(name string) (Template, error) {
	t := Template{Name: name}
	b, err := fs.ReadFile(files, "templates/"+name+"/template.yml")
	if err != nil || strings.ContainsAny(name, "/\\") {
		var names []string
		dirs, _ := files.ReadDir("templates") // embedded: it is there
		for _, d := range dirs {
			names = append(names, d.Name())
		}
		return t, fmt.Errorf("there is no template %q: there are %s", name, strings.Join(names, ", "))
	}
	if err := yaml.UnmarshalStrict(b, &t); err != nil {
		return t, fmt.Errorf("template %s: %w", name, err)
	}
	return t, nil
}

// File reads a file of a template, such as "main.go.txt".
func File(name, file string) ([]byte, error) { return files.ReadFile("templates/" + name + "/" + file) }

var nameRE = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)

// New writes the skeleton of a handler into dir, which must not exist, and
// answers with what to tell its author.
func New(lang, name, dir string) (welcome string, err error) {
	if len(name) > 63 || !nameRE.MatchString(name) {
		return "", fmt.Errorf("%q is not a function's name: at most 63 lower-case letters, digits and, between them, hyphens", name)
	}
	t, err := Get(lang)
	if err != nil {
		return "", err
	}
	if err := os.Mkdir(dir, 0o755); errors.Is(err, fs.ErrExist) { //nolint:gosec // a folder of the user's project
		return "", fmt.Errorf("%s exists already: choose another name, or remove it", dir)
	} else if err != nil {
		return "", err
	}
	skeleton, err := fs.Sub(files, "templates/"+lang+"/handler")
	if err != nil {
		return "", err
	}
	err = fs.WalkDir(skeleton, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == "." {
			return err
		}
		to := filepath.Join(dir, filepath.FromSlash(p))
		if d.IsDir() {
			return os.Mkdir(to, 0o755) //nolint:gosec // as above
		}
		b, err := fs.ReadFile(skeleton, p)
		if err != nil {
			return err
		}
		mode := fs.FileMode(0o644)
		if strings.HasSuffix(p, ".sh") {
			mode = 0o755
		}
		return os.WriteFile(to, b, mode)
	})
	return t.Welcome, err
}
