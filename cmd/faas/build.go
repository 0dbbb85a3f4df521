package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/podsnap/podsnap/builder"
	"github.com/podsnap/podsnap/functions/stack"
	"github.com/podsnap/podsnap/functions/template"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// stackArgs say which functions of which stack file are meant.
type stackArgs struct {
	file, filter, regex string
}

func (s *stackArgs) add(f *pflag.FlagSet) {
	f.StringVarP(&s.file, "yaml", "f", "", "stack file (default: stack.yaml of this folder)")
	f.StringVar(&s.filter, "filter", "", "only functions whose names match, such as 'img*'")
	f.StringVar(&s.regex, "regex", "", "only functions whose names match a regular expression")
}

func (s *stackArgs) load() (*stack.Stack, error) {
	path, err := stack.Find(s.file)
	if err != nil {
		return nil, err
	}
	if path == "" {
		return nil, usagef("there is no stack.yaml in this folder: make a function with `faas new NAME --lang go`, or name a file with -f")
	}
	st, err := stack.Load(path, os.LookupEnv)
	if err != nil {
		return nil, err
	}
	return st, st.Filter(s.filter, s.regex)
}

// output is where build leaves a function's image for push.
func imagePath(s *stack.Stack, f stack.Function) string {
	return filepath.Join(s.Dir, "build", f.Name+".tar")
}

func (o *options) buildCmd() *cobra.Command {
	s := &stackArgs{}
	cmd := &cobra.Command{
		Use: "build", Short: "Build the images of functions from source",
		Long: `Builds an image for each function of stack.yaml, without Docker and without a
registry, and leaves it in the folder build beside the stack file.`,
		Example: "  faas build\n  faas build --filter thumbnail",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := o.long(cmd.Context())
			defer cancel()
			st, err := s.load()
			if err != nil {
				return err
			}
			return buildStack(ctx, cmd, st)
		},
	}
	s.add(cmd.Flags())
	return cmd
}

func buildStack(ctx context.Context, cmd *cobra.Command, st *stack.Stack) error {
	for _, f := range st.List() {
		if f.SkipBuild || f.Handler == "" {
			say(cmd, "%s: nothing to build", f.Name)
			continue
		}
		start := time.Now()
		handler := f.Handler
		if !filepath.IsAbs(handler) {
			handler = filepath.Join(st.Dir, handler)
		}
		img, err := builder.Build(ctx, builder.Job{Name: f.Name, Lang: f.Lang, Handler: handler, Process: f.Process, BuildArgs: f.BuildArgs}, cmd.ErrOrStderr())
		if err != nil {
			return fmt.Errorf("build %s: %w", f.Name, err)
		}
		path := imagePath(st, f)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // a folder of the user's project
			return err
		}
		if err := builder.Save(img, f.Image, path); err != nil {
			return fmt.Errorf("save the image of %s: %w", f.Name, err)
		}
		say(cmd, "built %s (%s) in %.1f s", f.Name, f.Image, time.Since(start).Seconds())
	}
	return nil
}

func (o *options) pushCmd() *cobra.Command {
	s := &stackArgs{}
	cmd := &cobra.Command{
		Use: "push", Short: "Push the images that build has made",
		Long: `Pushes images. A name without a registry (hello:latest) goes to the platform's
own registry, any other to the registry that it names.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := o.long(cmd.Context())
			defer cancel()
			st, err := s.load()
			if err != nil {
				return err
			}
			return o.pushStack(ctx, cmd, st)
		},
	}
	s.add(cmd.Flags())
	return cmd
}

func (o *options) pushStack(ctx context.Context, cmd *cobra.Command, st *stack.Stack) error {
	c, err := o.client(st.Provider.Gateway)
	if err != nil {
		return err
	}
	u, err := url.Parse(c.URL)
	if err != nil {
		return err
	}
	for _, f := range st.List() {
		path := imagePath(st, f)
		img, err := builder.Load(path)
		if errors.Is(err, fs.ErrNotExist) {
			if f.SkipBuild || f.Handler == "" {
				continue // it is somebody else's image
			}
			return fmt.Errorf("%s is not built: run `faas build` first", f.Name)
		}
		if err != nil {
			return fmt.Errorf("read the image of %s: %w", f.Name, err)
		}
		start := time.Now()
		t := builder.Target{Image: f.Image, Platform: u.Host, Insecure: u.Scheme == "http", User: c.User, Password: c.Password}
		digest, err := builder.Push(ctx, img, t)
		if err != nil {
			if _, ok := errors.AsType[*net.OpError](err); ok {
				return o.explain(err, c)
			}
			return fmt.Errorf("push %s: %w", f.Image, err)
		}
		say(cmd, "pushed %s (%s) in %d ms", f.Image, short(digest), time.Since(start).Milliseconds())
	}
	return nil
}

// short is the part of a digest that a person reads.
func short(digest string) string {
	return digest[:min(len(digest), len("sha256:")+12)]
}

func (o *options) deployStack(ctx context.Context, cmd *cobra.Command, st *stack.Stack, d *deployFlags) error {
	c, err := o.client(st.Provider.Gateway)
	if err != nil {
		return err
	}
	for _, f := range st.List() {
		out, err := f.Deployment(st.Dir)
		if err != nil {
			return err
		}
		if err := d.over(&out); err != nil {
			return err
		}
		if err := o.deploy(ctx, cmd, c, d, out); err != nil {
			return err
		}
	}
	return nil
}

func (o *options) upCmd() *cobra.Command {
	s, d := &stackArgs{}, &deployFlags{}
	var skipPush, skipDeploy bool
	cmd := &cobra.Command{
		Use: "up", Short: "Build, push and deploy functions",
		Example: "  faas up\n  faas up -f stack.yaml --filter thumbnail --label com.openfaas.scale.zero=true",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := o.long(cmd.Context())
			defer cancel()
			st, err := s.load()
			if err != nil {
				return err
			}
			if err := buildStack(ctx, cmd, st); err != nil {
				return err
			}
			if !skipPush {
				if err := o.pushStack(ctx, cmd, st); err != nil {
					return err
				}
			}
			if skipDeploy {
				return nil
			}
			return o.deployStack(ctx, cmd, st, d)
		},
	}
	s.add(cmd.Flags())
	d.add(cmd.Flags())
	cmd.Flags().BoolVar(&skipPush, "skip-push", false, "do not push")
	cmd.Flags().BoolVar(&skipDeploy, "skip-deploy", false, "do not deploy")
	return cmd
}

func (o *options) publishCmd() *cobra.Command {
	s := &stackArgs{}
	cmd := &cobra.Command{
		Use: "publish", Short: "Build and push the images of functions", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := o.long(cmd.Context())
			defer cancel()
			st, err := s.load()
			if err != nil {
				return err
			}
			if err := buildStack(ctx, cmd, st); err != nil {
				return err
			}
			return o.pushStack(ctx, cmd, st)
		},
	}
	s.add(cmd.Flags())
	return cmd
}

func (o *options) newCmd() *cobra.Command {
	var lang, prefix, file string
	var list bool
	cmd := &cobra.Command{
		Use: "new NAME --lang LANGUAGE", Short: "Make a function from a template",
		Example: "  faas new --list\n  faas new hello --lang go",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if list {
				return o.templates(cmd)
			}
			if len(args) == 0 || lang == "" {
				return usagef("say what to make: faas new NAME --lang LANGUAGE (`faas new --list` shows the languages)")
			}
			name := args[0]
			path, err := stack.Find("")
			if file != "" {
				path, err = file, nil
			}
			if err != nil {
				return err
			}
			if path == "" {
				path = stack.DefaultFile
			}
			dir := filepath.Join(filepath.Dir(path), name)
			welcome, err := template.New(lang, name, dir)
			if err != nil {
				return err
			}
			image := name + ":latest"
			if prefix != "" {
				image = strings.TrimSuffix(prefix, "/") + "/" + image
			}
			if err := stack.Add(path, stack.Function{Name: name, Lang: lang, Handler: "./" + name, Image: image}); err != nil {
				return err
			}
			say(cmd, "made %s and its entry in %s", dir, path)
			if welcome != "" {
				say(cmd, "%s", strings.TrimSpace(welcome))
			}
			say(cmd, "next: faas up --filter %s && echo hi | faas invoke %s", name, name)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&lang, "lang", "", "language: the name of a template")
	f.StringVarP(&prefix, "prefix", "p", os.Getenv("OPENFAAS_PREFIX"), "registry and owner to put before the image's name")
	f.StringVarP(&file, "yaml", "f", "", "stack file to add it to (default: stack.yaml of this folder)")
	f.StringVar(&file, "append", "", "the same as --yaml")
	f.BoolVar(&list, "list", false, "list the languages")
	return cmd
}

func (o *options) templateCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "template", Short: "Show the templates of functions", Args: cobra.NoArgs}
	cmd.AddCommand(&cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the templates", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.templates(cmd) },
	})
	return cmd
}

func (o *options) templates(cmd *cobra.Command) error {
	list, err := template.List()
	if err != nil {
		return err
	}
	return o.print(cmd.OutOrStdout(), list, func(w io.Writer) {
		for _, t := range list {
			fmt.Fprintln(w, t.Name)
		}
	})
}
