package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/podsnap/podsnap/builder"
	"github.com/podsnap/podsnap/functions/stack"
	"github.com/podsnap/podsnap/functions/template"
	"github.com/podsnap/podsnap/internal/openfaas"
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

// work is the functions of a stack file that a command is about.
type work struct {
	stack     *stack.Stack
	functions []stack.Function
	dir       string // where images are saved
}

// stackFile is the file to use when none was named: stack.yaml, or the older
// stack.yml.
func stackFile(named string) string {
	if named != "" {
		return named
	}
	if _, err := os.Stat(stack.DefaultFile); errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat("stack.yml"); err == nil {
			return "stack.yml"
		}
	}
	return stack.DefaultFile
}

func (s *stackArgs) load() (*work, error) {
	file := stackFile(s.file)
	st, err := stack.Load(file, os.LookupEnv)
	if err != nil {
		return nil, err
	}
	fns, err := st.Select(s.filter, s.regex)
	if err != nil {
		return nil, usageError{fmt.Errorf("%s: %w", file, err)}
	}
	if len(fns) == 0 {
		return nil, usagef("%s has no functions: make one with `faas new NAME --lang go`", file)
	}
	return &work{stack: st, functions: fns, dir: filepath.Join(filepath.Dir(file), "build")}, nil
}

func (w *work) gateway() string { return w.stack.Provider.Gateway }

// image is where build leaves a function's image for push.
func (w *work) image(f stack.Function) string { return filepath.Join(w.dir, f.Name+".tar") }

// elsewhere reports whether a function's image is made by somebody else.
func elsewhere(f stack.Function) bool { return f.SkipBuild || f.Handler == "" }

// build makes the images, some at once. The first fault ends it.
func (w *work) build(ctx context.Context, cmd *cobra.Command, flags *buildFlags) error {
	if err := flags.check(); err != nil {
		return err
	}
	whole := ctx
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	b := builder.New(builder.Config{})
	out := &locked{w: cmd.ErrOrStderr()}
	slots := make(chan struct{}, flags.parallel)
	faults := make([]error, len(w.functions))
	var wg sync.WaitGroup
	for i, f := range w.functions {
		slots <- struct{}{}
		if ctx.Err() != nil {
			break
		}
		wg.Go(func() {
			defer func() { <-slots }()
			if faults[i] = w.buildOne(ctx, out, b, f); faults[i] != nil {
				cancel()
			}
		})
	}
	wg.Wait()
	for _, err := range faults { // one fault makes others end: theirs say nothing
		if err != nil && !errors.Is(err, context.Canceled) {
			return err
		}
	}
	if err := errors.Join(faults...); err != nil {
		return err
	}
	return context.Cause(whole) // it may have ended before all had begun
}

func (w *work) buildOne(ctx context.Context, out io.Writer, b *builder.Builder, f stack.Function) error {
	if elsewhere(f) {
		fmt.Fprintf(out, "%s: nothing to build\n", f.Name)
		return nil
	}
	start := time.Now()
	img, err := b.Build(ctx, w.stack, f, out)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(w.dir, 0o755); err != nil { //nolint:gosec // a folder of the user's project
		return err
	}
	if err := builder.Save(img, w.image(f)); err != nil {
		return err
	}
	fmt.Fprintf(out, "built %s as %s (%.1f MB) in %.1f s\n", f.Name, img.Ref, float64(img.Size)/1e6, time.Since(start).Seconds())
	return nil
}

func (o *options) push(ctx context.Context, cmd *cobra.Command, w *work) error {
	c, err := o.client(w.gateway())
	if err != nil {
		return err
	}
	u, err := url.Parse(c.URL)
	if err != nil {
		return err
	}
	for _, f := range w.functions {
		if elsewhere(f) {
			continue
		}
		img, err := builder.Load(w.image(f))
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s is not built: run `faas build` first", f.Name)
		}
		if err != nil {
			return err
		}
		start := time.Now()
		img.Ref = f.ImageName()
		if _, err := builder.Push(ctx, img, builder.PushConfig{
			Registry: u.Host, Insecure: u.Scheme == "http", Username: c.User, Password: c.Password, Transport: o.http().Transport,
		}); err != nil {
			return o.explain(err, c)
		}
		say(cmd, "pushed %s in %d ms", img.Ref, time.Since(start).Milliseconds())
	}
	return nil
}

func (o *options) deployAll(ctx context.Context, cmd *cobra.Command, w *work, d *deployFlags) error {
	c, err := o.client(w.gateway())
	if err != nil {
		return err
	}
	var fns []openfaas.FunctionDeployment
	for _, f := range w.functions {
		out := openfaas.FunctionDeployment{
			Service: f.Name, Image: f.ImageName(), Namespace: f.Namespace, EnvProcess: f.FProcess, EnvVars: f.Environment,
			Constraints: f.Constraints, Secrets: f.Secrets, Labels: f.Labels, Annotations: f.Annotations,
			Limits: wire(f.Limits), Requests: wire(f.Requests), ReadOnlyRootFilesystem: f.ReadOnlyRoot,
		}
		if err := d.over(&out); err != nil {
			return err
		}
		fns = append(fns, out)
	}
	return o.deploy(ctx, cmd, c, d, fns...)
}

func wire(r *stack.Resources) *openfaas.Resources {
	if r == nil {
		return nil
	}
	return &openfaas.Resources{CPU: r.CPU, Memory: r.Memory}
}

// onStack is a command about a stack file's functions.
func (o *options) onStack(cmd *cobra.Command, do func(ctx context.Context, cmd *cobra.Command, w *work) error) *cobra.Command {
	s := &stackArgs{}
	cmd.Args = cobra.NoArgs
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx, cancel := o.long(cmd.Context())
		defer cancel()
		w, err := s.load()
		if err != nil {
			return err
		}
		return do(ctx, cmd, w)
	}
	s.add(cmd.Flags())
	return cmd
}

// oneFunction is a function that is described by flags alone.
type oneFunction struct{ name, image, handler, lang string }

func (n *oneFunction) add(f *pflag.FlagSet) {
	f.StringVar(&n.name, "name", "", "name of the one function to build, without a stack file")
	f.StringVar(&n.image, "image", "", "its image (default: its name)")
	f.StringVar(&n.handler, "handler", "", "its folder")
	f.StringVar(&n.lang, "lang", "", "its language: the name of a template")
}

// work is what the flags describe; nil when they describe nothing.
func (n *oneFunction) work() (*work, error) {
	if *n == (oneFunction{}) {
		return nil, nil
	}
	if n.name == "" || n.handler == "" || n.lang == "" {
		return nil, usagef("without a stack file --name, --handler and --lang go together")
	}
	return &work{stack: &stack.Stack{}, functions: []stack.Function{{Name: n.name, Image: n.image, Handler: n.handler, Lang: n.lang}}, dir: "build"}, nil
}

// onBuild is a command that builds functions: a stack file's, or one that flags
// describe.
func (o *options) onBuild(cmd *cobra.Command, do func(ctx context.Context, cmd *cobra.Command, w *work, b *buildFlags) error) *cobra.Command {
	b, n := &buildFlags{}, &oneFunction{}
	o.onStack(cmd, func(ctx context.Context, cmd *cobra.Command, w *work) error { return do(ctx, cmd, w, b) })
	onStack := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		w, err := n.work()
		if err != nil {
			return err
		}
		if w == nil {
			return onStack(cmd, args)
		}
		ctx, cancel := o.long(cmd.Context())
		defer cancel()
		return do(ctx, cmd, w, b)
	}
	b.add(cmd.Flags())
	n.add(cmd.Flags())
	return cmd
}

func (o *options) buildCmd() *cobra.Command {
	return o.onBuild(&cobra.Command{
		Use: "build", Short: "Build the images of functions from source",
		Long: `Builds an image for each function of stack.yaml, without Docker and without a
registry, and leaves it in the folder build beside the stack file.`,
		Example: "  faas build\n  faas build --filter thumbnail\n  faas build --name hello --lang go --handler ./hello --image hello:1",
	}, func(ctx context.Context, cmd *cobra.Command, w *work, b *buildFlags) error {
		return w.build(ctx, cmd, b)
	})
}

func (o *options) pushCmd() *cobra.Command {
	cmd := o.onStack(&cobra.Command{
		Use: "push", Short: "Push the images that build has made",
		Long: `Pushes images. A name without a registry (hello:latest) goes to the platform's
own registry, any other to the registry that it names, with the credentials of
docker login.`,
		Example: "  faas push",
	}, o.push)
	tagFlag(cmd.Flags())
	return cmd
}

func (o *options) publishCmd() *cobra.Command {
	cmd := o.onBuild(&cobra.Command{
		Use: "publish", Short: "Build and push the images of functions", Example: "  faas publish\n  faas publish --parallel 2",
	}, func(ctx context.Context, cmd *cobra.Command, w *work, b *buildFlags) error {
		if err := w.build(ctx, cmd, b); err != nil {
			return err
		}
		return o.push(ctx, cmd, w)
	})
	platformsFlag(cmd.Flags())
	return cmd
}

func (o *options) upCmd() *cobra.Command {
	d, b := &deployFlags{}, &buildFlags{}
	var skipPush, skipDeploy bool
	cmd := o.onStack(&cobra.Command{
		Use: "up", Short: "Build, push and deploy functions",
		Example: "  faas up\n  faas up -f stack.yaml --filter thumbnail --label com.openfaas.scale.zero=true\n  faas up --no-wait",
	}, func(ctx context.Context, cmd *cobra.Command, w *work) error {
		if err := w.build(ctx, cmd, b); err != nil {
			return err
		}
		if !skipPush {
			if err := o.push(ctx, cmd, w); err != nil {
				return err
			}
		}
		if skipDeploy {
			return nil
		}
		return o.deployAll(ctx, cmd, w, d)
	})
	d.add(cmd.Flags())
	b.add(cmd.Flags())
	cmd.Flags().BoolVar(&skipPush, "skip-push", false, "do not push")
	cmd.Flags().BoolVar(&skipDeploy, "skip-deploy", false, "do not deploy")
	return cmd
}

func (o *options) newCmd() *cobra.Command {
	c := template.Config{}
	var list bool
	cmd := &cobra.Command{
		Use: "new NAME --lang LANGUAGE", Short: "Make a function from a template",
		Example: "  faas new --list\n  faas new hello --lang go",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if list {
				return o.templates(cmd)
			}
			if len(args) == 0 || c.Lang == "" {
				return usagef("say what to make: faas new NAME --lang LANGUAGE (`faas new --list` shows the languages)")
			}
			c.Name = args[0]
			var err error
			if c.Gateway, err = o.url(""); err != nil {
				return err
			}
			file := stackFile(c.File)
			c.Dir, c.File = filepath.Dir(file), filepath.Base(file)
			t, err := template.New(c)
			if err != nil {
				return err
			}
			say(cmd, "made the folder %s and its entry in %s", filepath.Join(c.Dir, c.Name), file)
			if t.Welcome != "" {
				say(cmd, "%s", strings.TrimSpace(t.Welcome))
			}
			say(cmd, "next: faas up --filter %s && echo hi | faas invoke %s", c.Name, c.Name)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&c.Lang, "lang", "", "language: the name of a template")
	f.StringVarP(&c.Prefix, "prefix", "p", os.Getenv("OPENFAAS_PREFIX"), "registry and owner to put before the image's name")
	f.StringVarP(&c.File, "yaml", "f", "", "stack file to add it to (default: stack.yaml of this folder)")
	f.StringVar(&c.File, "append", "", "the same as --yaml")
	f.BoolVar(&list, "list", false, "list the languages")
	return cmd
}

func (o *options) templateCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use: "template", Short: "Show the templates of functions", Args: cobra.NoArgs,
		Example: "  faas template list\n  faas new hello --lang go",
	}
	cmd.AddCommand(&cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the templates", Args: cobra.NoArgs,
		Example: "  faas template list\n  faas template list -o json",
		RunE:    func(cmd *cobra.Command, _ []string) error { return o.templates(cmd) },
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
			fmt.Fprintf(w, "%s\t%s\n", t.Name, t.Description)
		}
	})
}
